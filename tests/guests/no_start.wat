;; A valid module that is no WASI command: there is no _start, only a function "add".
(module
  (memory (export "memory") 1)
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
