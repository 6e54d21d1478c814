"""Manifests: an experiment as objects of Kubernetes, and what is wrong with such objects.

The objects lie in k8s/ as kustomize has them. Nothing here talks to a cluster.
"""
