/* The way back through one unit, after attention_kernel.h: the gradient of its queries, keys and values.

   With P the probabilities, S the scores in units of q k and G the gradient of the result:
       dV = P^T G,   dS = P (G V^T - rowsum(G out)),   dK = scale dS^T Q,   dQ = scale dS K + Z R
   where Z sums dS by the offset between query and key, and R are the position tables. */

typedef struct {
    E *value_columns, *key_rows;              /* values packed for products over channels, keys for those over keys */
    E *grad, *query_rows, *grad_rows;         /* (QUERIES, c); packed for products over queries */
    E *shares, *slopes;                       /* P^T and dS^T, (KEYS, QUERIES) */
    E *offsets;                               /* Z in the element's type */
    float *grad_scores, *by_offset;           /* (QUERIES, KEYS), (QUERIES, tables) */
    float *grad_query, *grad_keys, *grad_values; /* (QUERIES, c), (keys, c) twice */
    float *log_sums, *dots;                   /* (QUERIES,) */
} NAME(BackwardRoom);

/* Packs queries and the gradient of their result, `count` of them from `start` on, and what each row needs. */
static void NAME(read_gradients)(
    const Problem *p, const Unit *u, NAME(Room) *room, NAME(BackwardRoom) *back, long start, long count
) {
    long c = p->channels;
    const E *queries[QUERIES] = {NULL}, *grads[QUERIES] = {NULL}; /* rows that fill up stay zero */
    for (long i = 0; i < count; i++) {
        long y = (start + i) / u->width, x = (start + i) % u->width;
        long place = ((u->image * p->height + u->y + y) * p->width + u->x + x) * p->heads + u->head;
        const E *from = (const E *)p->grad_out + place * c, *out = (const E *)p->out + place * c;
        memcpy(back->grad + i * c, from, c * sizeof(E));
        queries[i] = room->query + i * c, grads[i] = back->grad + i * c;
        __m512 dot = _mm512_setzero_ps();
        for (long j = 0; j < c; j += 16) dot = _mm512_fmadd_ps(NAME(load)(from + j), NAME(load)(out + j), dot);
        back->dots[i] = _mm512_reduce_add_ps(dot);
        back->log_sums[i] = p->log_sums[place];
    }
    NAME(pack_rows)(back->query_rows, queries, filled(count), c, 1, c / 16);
    NAME(pack_rows)(back->grad_rows, grads, filled(count), c, 1, c / 16);
}

/* Scores and gradients of probabilities become probabilities and gradients of scores, both in place; the latter are
   also summed by offset and kept as elements in room->probabilities. */
static void NAME(slopes)(
    const Problem *p, const Unit *u, NAME(Room) *room, NAME(BackwardRoom) *back, long start, long count, long first,
    long vectors
) {
    long per_row = p->padded / 16;
    __m512 factor = _mm512_set1_ps(p->scale * LOG2E);
    for (long i = 0; i < count; i++) {
        float *scores = room->scores + i * KEYS, *grads = back->grad_scores + i * KEYS;
        float *of_rows = back->by_offset + i * p->relative_width + offset_place(p, u, start + i, 0);
        float *of_columns = back->by_offset + i * p->relative_width + offset_place(p, u, start + i, 1);
        __m512 log_sum = _mm512_set1_ps(back->log_sums[i]), dot = _mm512_set1_ps(back->dots[i]);
        long row = first / per_row, part = first % per_row;
        for (long z = 0; z < vectors; z++) {
            __m512 share = NAME(exp2)(_mm512_fmsub_ps(_mm512_loadu_ps(scores + z * 16), factor, log_sum));
            __m512 slope = _mm512_mul_ps(share, _mm512_sub_ps(_mm512_loadu_ps(grads + z * 16), dot));
            _mm512_storeu_ps(scores + z * 16, share);
            _mm512_storeu_ps(grads + z * 16, slope);
            NAME(store)(room->probabilities + i * KEYS + z * 16, slope);
            if (p->tables) {
                of_rows[row] += _mm512_reduce_add_ps(slope);
                float *at = of_columns + part * 16;
                _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), slope));
            }
            if (++part == per_row) part = 0, row++;
        }
    }
}

/* (QUERIES, KEYS) floats -> (KEYS, QUERIES) elements */
static void NAME(turn)(E *to, const float *from, long count, long vectors) {
    for (long i = 0; i < count; i += 16)
        for (long z = 0; z < vectors; z++) {
            __m512i block[16];
            for (int j = 0; j < 16; j++) block[j] = _mm512_loadu_si512(from + (i + j) * KEYS + z * 16);
            transpose(block);
            for (int j = 0; j < 16; j++)
                NAME(store)(to + (z * 16 + j) * QUERIES + i, _mm512_castsi512_ps(block[j]));
        }
}

static void NAME(write_gradient)(const Problem *p, const Unit *u, int part, long y, long x, const float *from, float by) {
    const E *token = NAME(token)(p, u, part, y, x);
    E *to = (E *)p->grad_qkv + (token - (const E *)p->qkv);
    for (long j = 0; j < p->channels; j += 16)
        NAME(store)(to + j, _mm512_mul_ps(_mm512_loadu_ps(from + j), _mm512_set1_ps(by)));
}

static void NAME(backward_unit)(const Problem *p, const Unit *u, NAME(Room) *room, NAME(BackwardRoom) *back) {
    long c = p->channels, all = p->padded_keys / 16, steps = c / PER_ENTRY, parts = c / 16;
    long queries = u->height * u->width, offsets = 2 * p->table_vectors * 16;
    const E *const *rows = NAME(key_rows)(p, u, 1, room->rows);
    NAME(pack_columns)(room->keys, rows, p->padded_keys, c, steps, 1);
    NAME(pack_rows)(back->key_rows, rows, p->padded_keys, c, 1, parts);
    NAME(pack_columns)(back->value_columns, NAME(key_rows)(p, u, 2, room->rows), p->padded_keys, c, steps, 1);
    memset(back->grad_keys, 0, p->padded_keys * c * sizeof(float));
    memset(back->grad_values, 0, p->padded_keys * c * sizeof(float));
    for (long start = 0; start < queries; start += QUERIES) {
        long count = queries - start < QUERIES ? queries - start : QUERIES;
        NAME(read_queries)(p, u, room, start, count);
        NAME(read_gradients)(p, u, room, back, start, count);
        memset(back->by_offset, 0, count * p->relative_width * sizeof(float));
        memset(room->scores + count * KEYS, 0, (filled(count) - count) * KEYS * sizeof(float));
        memset(back->grad_scores + count * KEYS, 0, (filled(count) - count) * KEYS * sizeof(float));
        for (long first = 0; first < all; first += KEYS / 16) {
            long vectors = all - first < KEYS / 16 ? all - first : KEYS / 16, keys = vectors * 16;
            NAME(scores)(p, u, room, start, count, first, vectors);
            NAME(product)(
                back->grad_scores, KEYS, 1, back->grad, c, count, back->value_columns + first * 16 * c, vectors, steps,
                1, steps
            );
            NAME(slopes)(p, u, room, back, start, count, first, vectors);
            NAME(turn)(back->shares, room->scores, filled(count), vectors);
            NAME(turn)(back->slopes, back->grad_scores, filled(count), vectors);
            NAME(product)(
                back->grad_values + first * 16 * c, c, 0, back->shares, QUERIES, keys, back->grad_rows, parts, 1,
                parts, filled(count) / PER_ENTRY
            );
            NAME(product)(
                back->grad_keys + first * 16 * c, c, 0, back->slopes, QUERIES, keys, back->query_rows, parts, 1, parts,
                filled(count) / PER_ENTRY
            );
            NAME(product)(
                back->grad_query, c, first == 0, room->probabilities, KEYS, count, back->key_rows + first * 16 * c,
                parts, 1, parts, keys / PER_ENTRY
            );
        }
        for (long i = 0; p->tables && i < count; i++) {
            for (long j = 0; j < offsets; j += 16) { /* met by queries that are scaled later */
                __m512 sum = _mm512_loadu_ps(back->by_offset + i * p->relative_width + j);
                NAME(store)(back->offsets + i * offsets + j, _mm512_mul_ps(sum, _mm512_set1_ps(1.0f / p->scale)));
            }
        }
        if (p->tables)
            NAME(product)(
                back->grad_query, c, 0, back->offsets, offsets, count, p->packed_offsets, parts, 1, parts,
                offsets / PER_ENTRY
            );
        for (long i = 0; i < count; i++) {
            long y = (start + i) / u->width, x = (start + i) % u->width;
            NAME(write_gradient)(p, u, 0, y, x, back->grad_query + i * c, p->scale);
        }
    }
    for (long y = 0; y < u->height; y++)
        for (long x = 0; x < u->width; x++) {
            long key = y * p->padded + x;
            NAME(write_gradient)(p, u, 1, y, x, back->grad_keys + key * c, p->scale);
            NAME(write_gradient)(p, u, 2, y, x, back->grad_values + key * c, 1.0f);
        }
}

static void NAME(lay_out_backward)(const Problem *p, NAME(BackwardRoom) *back, Arena *arena) {
    long c = p->channels, keys = p->padded_keys;
    back->value_columns = take(arena, keys * c * sizeof(E));
    back->key_rows = take(arena, keys * c * sizeof(E));
    back->grad = take(arena, QUERIES * c * sizeof(E));
    back->query_rows = take(arena, QUERIES * c * sizeof(E));
    back->grad_rows = take(arena, QUERIES * c * sizeof(E));
    back->shares = take(arena, KEYS * QUERIES * sizeof(E));
    back->slopes = take(arena, KEYS * QUERIES * sizeof(E));
    back->offsets = take(arena, QUERIES * p->relative_width * sizeof(E));
    back->grad_scores = take(arena, QUERIES * KEYS * sizeof(float));
    back->by_offset = take(arena, QUERIES * p->relative_width * sizeof(float));
    back->grad_query = take(arena, QUERIES * c * sizeof(float));
    back->grad_keys = take(arena, keys * c * sizeof(float));
    back->grad_values = take(arena, keys * c * sizeof(float));
    back->log_sums = take(arena, QUERIES * sizeof(float));
    back->dots = take(arena, QUERIES * sizeof(float));
}

static int NAME(backward)(Problem *p, int threads) {
    long units = num_units(p);
    E *columns = p->tables ? NAME(packed_tables)(p, 0) : NULL, *rows = p->tables ? NAME(packed_tables)(p, 1) : NULL;
    int failed = p->tables && (!columns || !rows), has_tables = !failed;
    p->packed_tables = columns, p->packed_offsets = rows;
#pragma omp parallel num_threads(threads)
    {
        NAME(Room) room;
        NAME(BackwardRoom) back;
        Arena arena = {NULL, 0};
        NAME(lay_out)(p, &room, &arena); /* counts */
        NAME(lay_out_backward)(p, &back, &arena);
        int has_room = open_arena(&arena) && has_tables;
        if (!has_room)
#pragma omp atomic write
            failed = 1;
        NAME(lay_out)(p, &room, &arena);
        NAME(lay_out_backward)(p, &back, &arena);
#pragma omp for schedule(dynamic, 1)
        for (long i = 0; i < units; i++) {
            Unit u = unit_of(p, i);
            if (has_room) NAME(backward_unit)(p, &u, &room, &back);
        }
        free(arena.start);
    }
    free(columns), free(rows);
    return failed;
}
