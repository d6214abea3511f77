"""The rules of the rendezvous: state, decisions, transitions. Pure: no clock, socket, thread or log.

Read in this order: `node`, `settings`, `state`, `observer`, `action`, `ranking`, `completion`,
`transitions`, `ops`.
"""
