;; Traps while it is instantiated, in its start function, before _start can be called.
(module
  (memory (export "memory") 1)
  (func $init unreachable)
  (start $init)
  (func (export "_start")))
