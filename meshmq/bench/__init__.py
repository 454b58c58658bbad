"""Workloads that measure meshmq itself, run by ``meshmq bench``.

Every publisher, node and subscriber is a process of its own: ``works`` (this process) starts them
through ``procs``; ``child`` is the other side's entry point and ``roles`` what it may be asked to
do. ``job`` holds what both sides share. Nothing here prints for people: the CLI does.
"""
