"""etcd's v3 API over its JSON gateway, and etcd itself as a local process."""
