"""Sound as tensors: the log-mel front end and its inverse, resampling, levels, masks and noise."""

__all__: list[str] = []
