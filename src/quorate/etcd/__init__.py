"""etcd's v3 API over its JSON gateway, the rendezvous on it, and etcd as a local process."""
