"""The fast path over a model's weights: packing, backends, one model pinned to one device."""
