// CPU-bound: argv[1] (default 4) products of 512x512 double matrices. Prints a checksum.
#include <stdio.h>
#include <stdlib.h>

#define N 512

static double a[N][N], b[N][N], c[N][N];

int main(int argc, char **argv) {
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 4;
    double sum = 0;

    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (i * 7 + j * 3) % 11 - 5;
            b[i][j] = (i * 5 + j * 2) % 13 - 6;
        }
    for (unsigned r = 0; r < rounds; r++) {
        a[r % N][0] += 1;
        for (int i = 0; i < N; i++) {
            for (int j = 0; j < N; j++)
                c[i][j] = 0;
            for (int k = 0; k < N; k++)
                for (int j = 0; j < N; j++)
                    c[i][j] += a[i][k] * b[k][j];
        }
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++)
                sum += c[i][j] * ((i + 2 * j) % 17);
    }
    printf("%.0f\n", sum);
    return 0;
}
