;; Asks for 8 MiB of randomness, 64 KiB at a time, and traps when it is refused or the last it gets is all zeros.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 128))
    (loop $again
      (if (call $random_get (i32.const 0) (i32.const 65536)) (then unreachable))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (if (i64.eqz (i64.load (i32.const 65528))) (then unreachable))))
