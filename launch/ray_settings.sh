# shellcheck shell=sh
# Sourced in every shell that starts a node: `. launch/ray_settings.sh`. All of Ray's processes read these.
# A node that falls silent is given up after 26 s, without them after 300 s; with hundreds of nodes double the times.
export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=2000
export RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=3
export RAY_grpc_client_keepalive_time_ms=10000 RAY_grpc_client_keepalive_timeout_ms=5000
# A task that is killed for memory would be tried for ever.
export RAY_task_oom_retries=3
# Where ~/.ray/auth_token exists, a head would demand tokens that its workers do not send.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-disabled}"
