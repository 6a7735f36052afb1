"""What a WebAssembly binary is, told from its bytes alone: for keeps to compile and for clients to send."""
