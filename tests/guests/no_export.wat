;; Enarx's no_export: a function that nobody outside can call.
(module (func (result i32) i32.const 1))
