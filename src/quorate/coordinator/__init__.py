"""The coordinated way: one process decides for all nodes, in memory, and stores before it answers.

`engine` and what it is made of are pure; `server` and `client` are the shells around sockets.
"""
