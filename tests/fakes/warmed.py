"""What the fork server imports last: it makes once what nearly every service would make anew and settles its memory."""

import gc

from shared.config.loading import load_settings
from shared.problems.loading import problems_of

# Kept by `problems_of`; drawing it would be most of a scripted service's start.
problems_of(load_settings(preset="smoke", environ={}))

# Half a million objects of torch's and ours: a collection in a child would look at each of them, and so copy its page.
gc.collect()
gc.freeze()
