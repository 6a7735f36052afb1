/* Divides by zero two calls deep; built with DWARF, so that its backtrace has files and lines. */
static __attribute__((noinline)) int divide(int a, volatile int b) {
    return a / b;
}

int main(int argc, char **argv) {
    (void)argv;
    return divide(argc, 0);
}
