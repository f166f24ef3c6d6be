/* Attention of one unit: one head in one window of one image. Forward, and backward with the scores computed again.

   Included twice, after vectors.h. Keys stand in rows of `side`, each filled up to whole vectors (padded); places that
   are no key get a score so low that their probability is nothing. Scores are in units of q k, so that the scale and
   log2(e), which turns exp into 2^x, are one factor. */

/* What a thread needs for one unit. */
typedef struct {
    E *keys, *values;                /* packed for products over channels (keys) and over keys (values) */
    E *query;                        /* (QUERIES, c) */
    E *probabilities;                /* (QUERIES, KEYS) */
    float *scores, *relative, *out;  /* (QUERIES, KEYS), (QUERIES, tables), (QUERIES, c) */
    float *highest, *sum;            /* (QUERIES,) */
    const E **rows;                  /* pointers to tokens */
} NAME(Room);

static const E *NAME(token)(const Problem *p, const Unit *u, int part, long y, long x) {
    if (y >= p->side || x >= p->side) return NULL; /* fills a row up */
    long channel = (part * p->heads + u->head) * p->channels;
    if (y >= u->height || x >= u->width) return (const E *)p->padding + channel;
    long place = (u->image * p->height + u->y + y) * p->width + u->x + x;
    return (const E *)p->qkv + place * 3 * p->heads * p->channels + channel;
}

/* Pointers to all keys or values of a unit, in rows filled up to whole vectors. */
static const E *const *NAME(key_rows)(const Problem *p, const Unit *u, int part, const E **rows) {
    for (long i = 0; i < p->padded_keys; i++) rows[i] = NAME(token)(p, u, part, i / p->padded, i % p->padded);
    return rows;
}

/* Queries `start` to `start + count` of a unit, and their products with the position tables, over the scale. */
static void NAME(read_queries)(const Problem *p, const Unit *u, NAME(Room) *room, long start, long count) {
    long c = p->channels;
    for (long i = 0; i < count; i++) {
        const E *from = NAME(token)(p, u, 0, (start + i) / u->width, (start + i) % u->width);
        memcpy(room->query + i * c, from, c * sizeof(E));
    }
    if (!p->tables) return;
    long vectors = 2 * p->table_vectors, steps = c / PER_ENTRY;
    NAME(product)(
        room->relative, p->relative_width, 1, room->query, c, count, p->packed_tables, vectors, steps, 1, steps
    );
    __m512 inverse = _mm512_set1_ps(1.0f / p->scale);
    for (long i = 0; i < count; i++)
        for (long j = 0; j < vectors; j++) {
            float *at = room->relative + i * p->relative_width + j * 16;
            _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), inverse));
        }
}

/* Scores of `count` queries and the vectors of keys from `first` on, into room->scores. */
static void NAME(scores)(
    const Problem *p, const Unit *u, NAME(Room) *room, long start, long count, long first, long vectors
) {
    long per_row = p->padded / 16, steps = p->channels / PER_ENTRY;
    __m512 lowest = _mm512_set1_ps(LOWEST);
    __mmask16 real = p->side % 16 ? (__mmask16)((1u << p->side % 16) - 1) : 0xffff;
    for (long i = 0; i < count; i++) {
        float *to = room->scores + i * KEYS;
        const float *relative = room->relative + i * p->relative_width;
        const float *of_rows = relative + offset_place(p, u, start + i, 0);
        const float *of_columns = relative + offset_place(p, u, start + i, 1);
        long row = first / per_row, part = first % per_row;
        for (long z = 0; z < vectors; z++) {
            __m512 score = _mm512_setzero_ps();
            if (p->tables)
                score = _mm512_add_ps(_mm512_set1_ps(of_rows[row]), _mm512_loadu_ps(of_columns + part * 16));
            if (part == per_row - 1) score = _mm512_mask_mov_ps(lowest, real, score);
            _mm512_storeu_ps(to + z * 16, score);
            if (++part == per_row) part = 0, row++;
        }
    }
    NAME(product)(
        room->scores, KEYS, 0, room->query, p->channels, count, room->keys + first * steps * 16 * PER_ENTRY, vectors,
        steps, 1, steps
    );
}

/* One block of keys: scores become probabilities relative to the highest score so far, and what was summed before is
   made relative to it, too. */
static void NAME(soften)(const Problem *p, NAME(Room) *room, long count, long vectors, int is_first) {
    float factor = p->scale * LOG2E;
    long parts = p->channels / 16;
    for (long i = 0; i < count; i++) {
        const float *scores = room->scores + i * KEYS;
        E *probabilities = room->probabilities + i * KEYS;
        __m512 high = _mm512_loadu_ps(scores);
        for (long z = 1; z < vectors; z++) high = _mm512_max_ps(high, _mm512_loadu_ps(scores + z * 16));
        float block = _mm512_reduce_max_ps(high) * factor;
        float highest = is_first || block > room->highest[i] ? block : room->highest[i];
        __m512 scale = _mm512_set1_ps(factor), shift = _mm512_set1_ps(highest), sum = _mm512_setzero_ps();
        for (long z = 0; z < vectors; z++) {
            __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + z * 16), scale, shift);
            __m512 share = NAME(exp2)(x);
            sum = _mm512_add_ps(sum, share);
            NAME(store)(probabilities + z * 16, share);
        }
        float before = is_first ? 0.0f : room->sum[i];
        if (!is_first && highest != room->highest[i]) {
            float fade = exp2f(room->highest[i] - highest);
            before *= fade;
            for (long j = 0; j < parts; j++) {
                float *at = room->out + i * p->channels + j * 16;
                _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), _mm512_set1_ps(fade)));
            }
        }
        room->sum[i] = before + _mm512_reduce_add_ps(sum);
        room->highest[i] = highest;
    }
}

/* Queries from `begin` to `end` of one unit. */
static void NAME(forward_unit)(const Problem *p, const Unit *u, NAME(Room) *room, long begin, long end) {
    long c = p->channels, all = p->padded_keys / 16, steps = c / PER_ENTRY, parts = c / 16;
    NAME(pack_columns)(room->keys, NAME(key_rows)(p, u, 1, room->rows), p->padded_keys, c, steps, 1);
    NAME(pack_rows)(room->values, NAME(key_rows)(p, u, 2, room->rows), p->padded_keys, c, 1, parts);
    for (long start = begin; start < end; start += QUERIES) {
        long count = end - start < QUERIES ? end - start : QUERIES;
        NAME(read_queries)(p, u, room, start, count);
        for (long first = 0; first < all; first += KEYS / 16) {
            long vectors = all - first < KEYS / 16 ? all - first : KEYS / 16;
            NAME(scores)(p, u, room, start, count, first, vectors);
            NAME(soften)(p, room, count, vectors, first == 0);
            NAME(product)(
                room->out, c, first == 0, room->probabilities, KEYS, count, room->values + first * 16 * c, parts, 1,
                parts, vectors * 16 / PER_ENTRY
            );
        }
        for (long i = 0; i < count; i++) {
            long y = (start + i) / u->width, x = (start + i) % u->width;
            long place = ((u->image * p->height + u->y + y) * p->width + u->x + x) * p->heads + u->head;
            __m512 share = _mm512_set1_ps(1.0f / room->sum[i]);
            for (long j = 0; j < parts; j++) {
                __m512 sums = _mm512_loadu_ps(room->out + i * c + j * 16);
                NAME(store)((E *)p->out + place * c + j * 16, _mm512_mul_ps(sums, share));
            }
            if (p->log_sums) p->log_sums[place] = room->highest[i] + log2f(room->sum[i]);
        }
    }
}

static void NAME(lay_out)(const Problem *p, NAME(Room) *room, Arena *arena) {
    long c = p->channels, keys = p->padded_keys;
    room->keys = take(arena, keys * c * sizeof(E));
    room->values = take(arena, keys * c * sizeof(E));
    room->query = take(arena, QUERIES * c * sizeof(E));
    room->probabilities = take(arena, QUERIES * KEYS * sizeof(E));
    room->scores = take(arena, QUERIES * KEYS * sizeof(float));
    room->relative = take(arena, QUERIES * p->relative_width * sizeof(float));
    room->out = take(arena, QUERIES * c * sizeof(float));
    room->highest = take(arena, QUERIES * sizeof(float));
    room->sum = take(arena, QUERIES * sizeof(float));
    room->rows = take(arena, keys * sizeof(E *));
}

/* Both position tables, each filled up to whole vectors, packed for products over channels or over offsets. */
static E *NAME(packed_tables)(const Problem *p, int over_offsets) {
    long c = p->channels, length = 2 * p->side - 1, places = p->table_vectors * 16;
    E *packed = room_for(2 * places * c * sizeof(E));
    const E **rows = room_for(2 * places * sizeof(E *));
    if (packed && rows) {
        for (long i = 0; i < 2 * places; i++)
            rows[i] = i % places < length ? (const E *)p->tables + (i / places * length + i % places) * c : NULL;
        if (over_offsets) NAME(pack_rows)(packed, rows, 2 * places, c, 1, c / 16);
        else NAME(pack_columns)(packed, rows, 2 * places, c, c / PER_ENTRY, 1);
    }
    free(rows);
    return packed;
}

static int NAME(forward)(Problem *p, int threads) {
    long units = num_units(p), splits = units ? (2 * threads + units - 1) / units : 0;
    E *tables = p->tables ? NAME(packed_tables)(p, 0) : NULL;
    int failed = p->tables && !tables, has_tables = !failed;
    p->packed_tables = tables;
#pragma omp parallel num_threads(threads)
    {
        NAME(Room) room;
        Arena arena = {NULL, 0};
        NAME(lay_out)(p, &room, &arena); /* counts */
        int has_room = open_arena(&arena) && has_tables;
        if (!has_room)
#pragma omp atomic write
            failed = 1;
        NAME(lay_out)(p, &room, &arena);
#pragma omp for schedule(dynamic, 1)
        for (long i = 0; i < units * splits; i++) {
            Unit u = unit_of(p, i / splits);
            long step = (u.height * u.width + splits - 1) / splits, begin = i % splits * step;
            long end = begin + step < u.height * u.width ? begin + step : u.height * u.width;
            if (has_room && begin < end) NAME(forward_unit)(p, &u, &room, begin, end);
        }
        free(arena.start);
    }
    free(tables);
    return failed;
}
