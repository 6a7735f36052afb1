;; Declares 2 GiB of initial memory and does nothing with it.
(module
  (memory (export "memory") 32768)
  (func (export "_start")))
