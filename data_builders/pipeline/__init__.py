"""Stages, shards and the finished data set."""
