"""One small server a peer, each written as the peer's own documentation recommends. Run in that peer's environment."""
