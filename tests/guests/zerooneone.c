// Enarx's zerooneone: standard input in ROT13.
#include <stdio.h>

int main(void) {
    int c;
    while ((c = getchar()) != EOF) {
        int base = c >= 'a' && c <= 'z' ? 'a' : c >= 'A' && c <= 'Z' ? 'A' : 0;
        putchar(base ? base + (c - base + 13) % 26 : c);
    }
    return 0;
}
