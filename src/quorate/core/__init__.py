"""The rules of the rendezvous, pure: no clock, no socket, no thread, no log.

Read in this order: `node`, `settings`, `state`, `observer`, `action`, `ranking`, `completion`,
`transitions`, `ops`.
"""
