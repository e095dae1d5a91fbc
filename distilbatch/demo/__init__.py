"""The demo's parts: its documents, its pinned encoder weights and the model built from them.

Nothing here runs the demo; the ``demo`` command puts the parts together.
"""
