/* The fastest that a processor with AVX-512 can multiply and add: twelve sums in registers, nothing read or written.

   Prints a line for each type, "fp32 GFLOP/s" and "bf16 GFLOP/s"; the argument is the number of threads. */

#include <immintrin.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#define STEPS 20000000L
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define FP32(i) __asm__ volatile("vfmadd231ps %1,%1,%0" : "+v"(s##i) : "v"(one));
#define BF16(i) __asm__ volatile("vdpbf16ps %1,%1,%0" : "+v"(s##i) : "v"(one));
#define KEEP(i) __asm__ volatile("" : : "v"(s##i));

#define MEASURE(name, step, operations)                                                   \
    static double name(int threads) {                                                     \
        double best = 0;                                                                  \
        for (int round = 0; round < 5; round++) {                                         \
            double start = omp_get_wtime();                                               \
            _Pragma("omp parallel num_threads(threads)") {                                \
                __m512 one = _mm512_setzero_ps();                                         \
                TWELVE(DECLARE)                                                           \
                for (long i = 0; i < STEPS; i++) { TWELVE(step) }                         \
                TWELVE(KEEP)                                                              \
            }                                                                             \
            double speed = 1e-9 * STEPS * 12 * operations * threads / (omp_get_wtime() - start); \
            if (speed > best) best = speed;                                               \
        }                                                                                 \
        return best;                                                                      \
    }

MEASURE(fp32, FP32, 32)
MEASURE(bf16, BF16, 64)

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    printf("fp32 %.1f\n", fp32(threads));
    if (__builtin_cpu_supports("avx512bf16")) printf("bf16 %.1f\n", bf16(threads));
}
