// Copies stdin to stdout, byte for byte, until end of input.
#include <unistd.h>

int main(void) {
    static char buffer[65536];
    for (;;) {
        ssize_t got = read(0, buffer, sizeof buffer);
        if (got <= 0)
            return got < 0 ? 1 : 0;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(1, buffer + done, (size_t)(got - done));
            if (put < 0)
                return 1;
            done += put;
        }
    }
}
