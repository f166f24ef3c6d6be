/* SAM's windowed attention with relative positions on processors with AVX-512: no matrix of scores ever reaches memory.

   What Python calls is at the end; tensors are contiguous, and of one type, float or bfloat16. library.py says which
   processors and sizes it is for; elsewhere adapters/tiled_attention.py computes the same from torch's operations. */

/* What library.py asks for: goes up whenever the arguments of a function here change. */
int msa_attention_version(void) { return 1; }

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

/* 0: not for this processor; 1: floats; 2: floats and bfloat16. Stands before the pragma: any processor can run it. */
int msa_attention_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 0;
    return __builtin_cpu_supports("avx512bf16") ? 2 : 1;
}

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

#define ALWAYS __attribute__((always_inline))
#define QUERIES 48 /* at a time, with KEYS: scores and packed keys stay in the second-level cache; divides by 16 */
#define KEYS 512
#define LOWEST -1e30f
#define LOG2E 1.44269504f

typedef struct {
    const void *qkv, *padding, *tables; /* (B, H, W, 3, h, c), (3, h, c), (2 (2 n - 1), c) or NULL */
    void *out;                          /* (B, H, W, h, c) */
    float *log_sums;                    /* (B, H, W, h): log2 of the sum of each query's shares, or NULL */
    const void *grad_out;               /* as out */
    void *grad_qkv;                     /* as qkv */
    const void *packed_tables, *packed_offsets;
    long images, height, width, heads, channels, side;
    long padded, padded_keys;           /* of a row of keys, filled up to whole vectors; of a window */
    long table_vectors, relative_width; /* of one table; of a row of products with both */
    float scale;
} Problem;

typedef struct {
    long image, head, y, x, height, width; /* the window's real tokens */
} Unit;

static long filled(long count) { return (count + 15) / 16 * 16; }

static long windows_along(long length, long side) { return (length + side - 1) / side; }

static long num_units(const Problem *p) {
    return p->images * p->heads * windows_along(p->height, p->side) * windows_along(p->width, p->side);
}

static Unit unit_of(const Problem *p, long index) {
    Unit u;
    long across = windows_along(p->width, p->side), down = windows_along(p->height, p->side);
    u.head = index % p->heads, index /= p->heads;
    u.x = index % across * p->side, index /= across;
    u.y = index % down * p->side, u.image = index / down;
    u.height = p->height - u.y < p->side ? p->height - u.y : p->side;
    u.width = p->width - u.x < p->side ? p->width - u.x : p->side;
    return u;
}

/* Where a query's offsets to key row 0 (axis 0) or key column 0 (axis 1) stand in its row of `relative`: offsets are
   stored last first, so that those of the following keys follow. */
static inline long offset_place(const Problem *p, const Unit *u, long query, int axis) {
    long own = axis ? query % u->width : query / u->width;
    return axis * p->table_vectors * 16 + p->side - 1 - own;
}

static void *room_for(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* A thread's memory, one block: what it holds is taken twice, first to count, then, after open_arena, for good. */
typedef struct {
    char *start;
    size_t used;
} Arena;

static void *take(Arena *arena, size_t bytes) {
    char *place = arena->start ? arena->start + arena->used : NULL;
    arena->used += (bytes + 63) / 64 * 64;
#ifdef __SANITIZE_ADDRESS__ /* a gap that nobody may touch */
    if (place) __asan_poison_memory_region(arena->start + arena->used, 64);
    arena->used += 64;
#endif
    return place;
}

static int open_arena(Arena *arena) {
    arena->start = room_for(arena->used);
    arena->used = 0;
    return arena->start != NULL;
}

/* 16 rows of entries become 16 columns: the transpose of a 16 x 16 matrix of 32 bits */
static inline ALWAYS void transpose(__m512i *r) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            r[4 * i + 2 * j] = _mm512_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
            r[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
        }
    for (int j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        r[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        r[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

#define BF16 0
#include "vectors.h"
#include "attention_kernel.h"
#include "backward_kernel.h"
#undef BF16
#define BF16 1
#include "vectors.h"
#include "attention_kernel.h"
#include "backward_kernel.h"

/* The result, or with a gradient of it that of qkv: 0 if all went well, 1 if memory ran out. `log_sums` may be NULL when
   there is no way back. */
int msa_attention(
    const void *qkv, const void *padding, const void *tables, void *out, float *log_sums, const void *grad_out,
    void *grad_qkv, int is_bf16, long images, long height, long width, long heads, long channels, long side,
    float scale, int threads
) {
    Problem p = {.qkv = qkv, .padding = padding, .tables = tables, .out = out, .log_sums = log_sums};
    p.grad_out = grad_out, p.grad_qkv = grad_qkv;
    p.images = images, p.height = height, p.width = width, p.heads = heads, p.channels = channels, p.side = side;
    p.padded = filled(side), p.padded_keys = side * p.padded;
    p.table_vectors = filled(2 * side - 1) / 16;
    p.relative_width = 2 * p.table_vectors * 16 + 16; /* the last columns are read in whole vectors */
    p.scale = scale;
    if (grad_out) return is_bf16 ? backward_bf16(&p, threads) : backward_fp32(&p, threads);
    return is_bf16 ? forward_bf16(&p, threads) : forward_fp32(&p, threads);
}

#ifdef __clang__
#pragma clang attribute pop
#endif

#else

int msa_attention_level(void) { return 0; }

#endif
