/* 512-bit vectors of one element type: what attention_kernel.h is written in.

   Included twice, with BF16 0 and 1. An "entry" is what one lane of a multiplication takes: one float, or two bfloat16
   that stand side by side in the direction in which a product sums. 16 entries fill a vector. */

#undef E
#undef NAME
#undef PER_ENTRY

#if BF16
#define E uint16_t
#define NAME(name) name##_bf16
#define PER_ENTRY 2
#else
#define E float
#define NAME(name) name##_fp32
#define PER_ENTRY 1
#endif

/* sum + vector * the entry at `entry`, which all lanes take */
static inline ALWAYS __m512 NAME(multiply_add)(__m512 sum, __m512i vector, const E *entry) {
#if BF16
    int32_t pair;
    memcpy(&pair, entry, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)vector);
#else
    return _mm512_fmadd_ps(_mm512_set1_ps(*entry), _mm512_castsi512_ps(vector), sum);
#endif
}

/* 16 floats to 16 elements */
static inline ALWAYS void NAME(store)(E *to, __m512 values) {
#if BF16
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
#else
    _mm512_storeu_ps(to, values);
#endif
}

static inline ALWAYS __m512 NAME(load)(const E *from) {
#if BF16
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
#else
    return _mm512_loadu_ps(from);
#endif
}

/* 2^x for x <= 0; exactly 0 where that would be denormal, which some processors take a hundred cycles for */
static inline ALWAYS __m512 NAME(exp2)(__m512 x) {
    __m512 least = _mm512_set1_ps(-126.0f);
    __mmask16 counts = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ); /* what is no number counts, and stays none */
    x = _mm512_max_ps(least, x);
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_sub_ps(x, whole); /* -0.5 to 0.5: a Taylor series, relative error 6e-5 and 2e-7 */
    __m512 sum = _mm512_set1_ps(9.6181291e-3f);
#if !BF16
    sum = _mm512_set1_ps(1.5403530e-4f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3333558e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(9.6181291e-3f));
#endif
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.5504109e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(2.4022651e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(6.9314718e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(counts, sum, whole);
}

/* A matrix whose rows are what a product sums over, as vectors of 16 of its columns: entry s of vector z at
   to[(z * z_step + s * s_step) * 16 entries].

   rows: a pointer to each row, or NULL for a row of zeros; `columns` divides by 16. */
static void NAME(pack_rows)(E *to, const E *const *rows, long num_rows, long columns, long z_step, long s_step) {
    for (long s = 0; s < num_rows / PER_ENTRY; s++)
        for (long z = 0; z < columns / 16; z++) {
            E *at = to + (z * z_step + s * s_step) * 16 * PER_ENTRY;
#if BF16
            const E *first = rows[2 * s], *second = rows[2 * s + 1];
            __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
            if (first) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(first + z * 16)));
            if (second) high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(second + z * 16)));
            _mm512_storeu_si512(at, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
            __m512 values = rows[s] ? _mm512_loadu_ps(rows[s] + z * 16) : _mm512_setzero_ps();
            _mm512_storeu_ps(at, values);
#endif
        }
}

/* The same, of a matrix whose columns are what a product sums over: vector z holds rows 16 z to 16 z + 15. */
static void NAME(pack_columns)(E *to, const E *const *rows, long num_rows, long columns, long z_step, long s_step) {
    long entries = columns / PER_ENTRY; /* of a row */
    for (long z = 0; z < num_rows / 16; z++)
        for (long s = 0; s < entries; s += 16) {
            long rest = entries - s;
            __mmask16 mask = rest < 16 ? (__mmask16)((1u << rest) - 1) : 0xffff;
            __m512i block[16];
            for (int i = 0; i < 16; i++) {
                const E *row = rows[z * 16 + i];
                block[i] = row ? _mm512_maskz_loadu_epi32(mask, row + s * PER_ENTRY) : _mm512_setzero_si512();
            }
            transpose(block);
            for (long i = 0; i < 16 && i < rest; i++)
                _mm512_storeu_si512(to + (z * z_step + (s + i) * s_step) * 16 * PER_ENTRY, block[i]);
        }
}

/* sums (R rows, Z vectors) += left (R rows of entries) * right (packed); R and Z are constants of each caller */
static inline ALWAYS void NAME(tile)(
    const int R, const int Z, float *sums, long ld, int is_fresh, const E *left, long ld_left, const E *right,
    long z_step, long s_step, long entries
) {
    __m512 sum[6][4];
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < Z; j++) sum[i][j] = is_fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + i * ld + j * 16);
    for (long s = 0; s < entries; s++) {
        __m512i vectors[4];
#pragma GCC unroll 4
        for (int j = 0; j < Z; j++)
            vectors[j] = _mm512_loadu_si512(right + (j * z_step + s * s_step) * 16 * PER_ENTRY);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++)
#pragma GCC unroll 4
            for (int j = 0; j < Z; j++)
                sum[i][j] = NAME(multiply_add)(sum[i][j], vectors[j], left + i * ld_left + s * PER_ENTRY);
    }
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < Z; j++) _mm512_storeu_ps(sums + i * ld + j * 16, sum[i][j]);
}

/* sums (rows, vectors * 16) = left * right, added to what is there unless is_fresh. */
static void NAME(product)(
    float *sums, long ld, int is_fresh, const E *left, long ld_left, long rows, const E *right, long vectors,
    long z_step, long s_step, long entries
) {
    for (long z = 0; z < vectors; z += 4) {
        const E *panel = right + z * z_step * 16 * PER_ENTRY;
        long wide = vectors - z < 4 ? vectors - z : 4;
        for (long i = 0; i < rows;) {
            float *at = sums + i * ld + z * 16;
            const E *row = left + i * ld_left;
            long tall = rows - i >= 6 ? 6 : rows - i >= 4 ? 4 : rows - i >= 2 ? 2 : 1;
#define CALL(R, Z) NAME(tile)(R, Z, at, ld, is_fresh, row, ld_left, panel, z_step, s_step, entries)
#define WIDTHS(R) (wide == 4 ? CALL(R, 4) : wide == 3 ? CALL(R, 3) : wide == 2 ? CALL(R, 2) : CALL(R, 1))
            if (tall == 6) WIDTHS(6);
            else if (tall == 4) WIDTHS(4);
            else if (tall == 2) WIDTHS(2);
            else WIDTHS(1);
#undef WIDTHS
#undef CALL
            i += tall;
        }
    }
}
