"""The coordinated way: one process decides for all nodes, in memory, and stores before it answers.

`engine`, what it is made of, and `runs` are pure. Around them: `ledgers`, where what is decided
lies; `entrance`, how connections come in; `server`, which has batches stored and answers let out;
and `agent`, the other end of a connection.
"""
