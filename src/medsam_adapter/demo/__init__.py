"""The demo: segment a scan in the browser. `msa demo` and the Space in `demos/` start it.

`workspace.py` is one visitor's scan and objects and knows nothing of Gradio; `page.py` lays out the page, `events.py`
ties the two together, `endpoints.py` are the named functions for `gradio_client`. All segmentation is `MSAPredictor`'s.
"""
