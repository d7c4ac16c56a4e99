"""`opcod bundle`: a run as one static page, to publish or to keep."""
