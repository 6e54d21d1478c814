"""A miniature ARID, planned, drawn and written in ARID's own layout.

It stands before the way of the data: what it writes is read as any dataset is. `planning` says which videos
there are, `style` how a clip performs its action, `poses` at which joint angles, `scenes` where and with
what, `solids` and `bodies` in which shapes; `drawing` shows all that to a camera, `videos` encodes the
pictures, and `dataset` fills a folder with the files.

Appearance and motion each tell a part of the answer: things that belong to an action also stand about in
others, every recording group shows every action, and lengths, light, places and bodies are drawn without
regard to the action.
"""

from ukd_dist.data.synthetic.dataset import write_dataset, write_lists, write_video
from ukd_dist.data.synthetic.planning import CLASSES, Video, divide, plan
from ukd_dist.data.synthetic.videos import render

__all__ = ["CLASSES", "Video", "divide", "plan", "render", "write_dataset", "write_lists", "write_video"]
