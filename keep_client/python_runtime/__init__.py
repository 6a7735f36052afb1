"""Makes what runs Python source in a keep: CPython as a component, once for each host, with componentize-py."""
