"""etcd's protobuf wire: `.proto` files written from the wire facts, and the code generated from them."""
