"""The libraries a user would otherwise take, each used the way its best user would.

``transformers`` and the other inference libraries may be imported here and nowhere else, and only when their contestant
is started: they are peers being measured, never a part of what runs.
"""
