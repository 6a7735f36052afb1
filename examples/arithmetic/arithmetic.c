/* A library: a module without main, whose functions are called. It keeps no state between calls. */

#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))

EXPORT("add") int32_t add(int32_t a, int32_t b) { return a + b; }

EXPORT("divide") int32_t divide(int32_t a, int32_t b) { return a / b; }

EXPORT("multiply") int64_t multiply(int64_t a, int64_t b) { return a * b; }

EXPORT("mean") double mean(double a, double b) { return (a + b) / 2; }

EXPORT("fibonacci") int64_t fibonacci(int32_t n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
