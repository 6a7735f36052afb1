;; Objects that the engine collects, and an exception: features that are off in a keep unless its configuration asks.
(module
  (type $tree (struct (field $left (ref null $tree)) (field $right (ref null $tree))))
  (tag $negative)

  ;; A full tree of that depth.
  (func $grown (param $depth i32) (result (ref $tree))
    (if (i32.lt_s (local.get $depth) (i32.const 0)) (then (throw $negative)))
    (if (result (ref $tree)) (i32.eqz (local.get $depth))
      (then (struct.new $tree (ref.null $tree) (ref.null $tree)))
      (else
        (local.set $depth (i32.sub (local.get $depth) (i32.const 1)))
        (struct.new $tree (call $grown (local.get $depth)) (call $grown (local.get $depth))))))

  (func $size (param $tree (ref null $tree)) (result i32)
    (if (result i32) (ref.is_null (local.get $tree))
      (then (i32.const 0))
      (else
        (i32.add (i32.const 1)
          (i32.add
            (call $size (struct.get $tree $left (local.get $tree)))
            (call $size (struct.get $tree $right (local.get $tree))))))))

  ;; How many nodes a full tree of that depth has, by growing one; -1 if the depth is negative.
  (func (export "nodes") (param $depth i32) (result i32)
    (block $caught
      (return (call $size (try_table (result (ref $tree)) (catch $negative $caught) (call $grown (local.get $depth))))))
    (i32.const -1)))
