"""What a coordinator must not forget, and where that lies: a journal, memory, or etcd (R17)."""
