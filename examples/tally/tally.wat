;; A reactor: _initialize comes before the first call, and what a call leaves behind is seen by the next one in the same
;; instance. add(n) adds n to a sum that begins with 100, and returns it.
(module
  (memory (export "memory") 1)
  (global $sum (mut i64) (i64.const 0))
  (func (export "_initialize")
    (global.set $sum (i64.const 100)))
  (func (export "add") (param $n i64) (result i64)
    (global.set $sum (i64.add (global.get $sum) (local.get $n)))
    (global.get $sum)))
