/* Reads members of shards, compares them with their hashes, decodes JPEGs, crops them and resizes the crops, several at a
   time, without Python between them.

   Only the part of a picture that its crop needs is decoded. The resizing is linear, with weights of 11 bits, as
   OpenCV's INTER_LINEAR. Whatever is out of the ordinary ends a job undone: Python then does it, and says what is wrong.
   avdata/load/native.py builds this file and calls it. */

#include <errno.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#endif

enum { CHANNELS = 3, ONE = 2048, MARGIN = 16, SLACK = 32, TAR_NAME = 100 };

/* A part of a file: a picture, which is cropped into `out`, or a window of a log-mel, which is copied there. */
typedef struct {
    int64_t offset;   /* of the content in the file */
    uint64_t size;    /* of the content in bytes */
    uint64_t hash;    /* of the content, if it has one hash */
    int64_t name;     /* in the texts: what the tar header before the content must say; -1: there is none */
    int64_t hashes;   /* in the texts: 32 bits of the hash of each `block` bytes; -1: `hash` is that of the content */
    int64_t place;    /* of a picture: where its file is kept, in `kept` */
    uint8_t *out;     /* receives size x size pixels of RGB, or the bytes of the window */
    uint64_t skipped; /* of a window: bytes of the content before it */
    uint64_t copied;  /* of a window: its bytes, float16; 0: this is a picture */
    int32_t file;     /* descriptor */
    int32_t block;    /* bytes; 0: no hash is compared */
    int32_t pixels;   /* of a crop: its size in `out` */
    int32_t top, left, height, width, flip; /* of the crop; `height` and `width` are those of the picture before */
    int32_t done;     /* TO_READ, READ or DONE; FAILED: left to Python */
    int32_t unused;
} Job;

enum { TO_READ = 0, READ = 1, DONE = 2, FAILED = 3, TAR_HEADER = 512 };

typedef uint64_t Hash(const void *bytes, size_t size);

typedef struct {
    uint8_t *bytes; /* what is read for a window */
    size_t num_bytes;
    uint8_t *pixels; /* what is decoded */
    size_t num_pixels;
    int16_t *row; /* a resized row, before its columns are */
    size_t num_row;
    int32_t *first; /* of each output column: the first of two source columns */
    size_t num_first;
    int16_t *pairs; /* of each output column: four times the weights of both */
    size_t num_pairs;
    int16_t *columns; /* of each output value: both source values, and the weight of the second */
    size_t num_columns;
} Memory;

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf jump;
} Errors;

static void leave(j_common_ptr info) { longjmp(((Errors *)info->err)->jump, 1); }

static void leave_at_warning(j_common_ptr info, int level) {
    if (level < 0) leave(info);
}

static int reserve(void **memory, size_t *have, size_t want, size_t item) {
    if (want <= *have) return 1;
    void *more = realloc(*memory, want * item);
    if (more == NULL) return 0;
    *memory = more;
    *have = want;
    return 1;
}

/* Decode the rows of a crop, with a margin at its sides. Sets the bytes of a row and the crop's first byte in it.
   Each picture has a decoder of its own: one that is used again keeps tables, and would decode a picture that lacks them. */
static int decode_part(const Job *job, const uint8_t *jpeg, Memory *memory, size_t *stride, size_t *begin) {
    struct jpeg_decompress_struct info;
    Errors errors;
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = leave;
    errors.base.emit_message = leave_at_warning;
    if (setjmp(errors.jump)) {
        jpeg_destroy_decompress(&info);
        return 0;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, (unsigned char *)jpeg, (unsigned long)job->size);
    jpeg_read_header(&info, TRUE);
    int64_t right = (int64_t)job->left + job->width, bottom = (int64_t)job->top + job->height;
    if (right > info.image_width || bottom > info.image_height) leave((j_common_ptr)&info);
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    /* Next to an edge of the part, pixels would differ: chroma is interpolated from both sides. */
    JDIMENSION first = job->left > MARGIN ? (JDIMENSION)(job->left - MARGIN) : 0;
    JDIMENSION end = right + MARGIN < info.image_width ? (JDIMENSION)(right + MARGIN) : info.image_width;
    JDIMENSION width = end - first;
    jpeg_crop_scanline(&info, &first, &width);
    *stride = (size_t)info.output_width * CHANNELS;
    *begin = ((size_t)job->left - first) * CHANNELS;
    if (*begin + (size_t)job->width * CHANNELS > *stride) leave((j_common_ptr)&info);
    if (!reserve((void **)&memory->pixels, &memory->num_pixels, *stride * (size_t)job->height + SLACK, 1))
        leave((j_common_ptr)&info);
    JDIMENSION top = (JDIMENSION)job->top;
    if (top > 0 && jpeg_skip_scanlines(&info, top) != top) leave((j_common_ptr)&info);
    for (int32_t row = 0; row < job->height; row++) {
        JSAMPROW line = memory->pixels + *stride * (size_t)row;
        if (jpeg_read_scanlines(&info, &line, 1) != 1) leave((j_common_ptr)&info);
    }
    jpeg_destroy_decompress(&info);
    return 1;
}

/* The source position of an output pixel: the first of two neighbors, and the weight of the second, of ONE. */
static void place(int32_t number, int32_t size, int32_t length, int32_t *first, int32_t *weight) {
    double at = (number + 0.5) * length / size - 0.5;
    if (at < 0) at = 0;
    *first = (int32_t)at;
    if (*first >= length - 1) {
        *first = length - 1;
        *weight = 0;
    } else {
        *weight = (int32_t)((at - *first) * ONE + 0.5);
    }
}

/* Mix two rows: (a * (ONE - weight) + b * weight) / 16, which fits 15 bits. It is computed as a * 128 + (b - a) * weight / 16,
   the latter as the high half of (b - a) * 128 times weight * 32, so that a compiler makes vectors of 16 bits of it. */
static inline void mix_rows(const uint8_t *a, const uint8_t *b, int32_t weight, size_t count, int16_t *restrict row) {
    const int16_t factor = (int16_t)(weight * 32 - 65536 * (weight >= ONE / 2)), wraps = -(weight >= ONE / 2);
    for (size_t place = 0; place < count; place++) {
        int16_t more = (int16_t)((b[place] - a[place]) * 128);
        row[place] = (int16_t)(a[place] * 128 + (int16_t)((more * factor) >> 16) + (more & wraps));
    }
}

/* Mix neighboring columns of a row into an output row, from an output column on. First both are laid side by side: then a
   compiler makes vectors of the rest. */
static void mix_columns(const int16_t *row, const Memory *memory, size_t from, size_t size, uint8_t *restrict out) {
    size_t count = size * CHANNELS;
    int16_t *restrict left = memory->columns, *restrict right = left + count + SLACK;
    const int16_t *restrict weights = right + count + SLACK;
    for (size_t column = from; column < size; column++) {
        const int16_t *at = row + memory->first[column];
        memcpy(left + column * CHANNELS, at, (CHANNELS + 1) * sizeof(int16_t));
        memcpy(right + column * CHANNELS, at + CHANNELS, (CHANNELS + 1) * sizeof(int16_t));
    }
    for (size_t value = from * CHANNELS; value < count; value++) {
        int32_t sum = left[value] * ONE + (right[value] - left[value]) * weights[value];
        out[value] = (uint8_t)((sum + (1 << 17)) >> 18);
    }
}

#ifdef HAS_AVX2
__attribute__((target("avx2"), flatten)) static void mix_rows_avx2(
    const uint8_t *a, const uint8_t *b, int32_t weight, size_t count, int16_t *row) {
    mix_rows(a, b, weight, count, row);
}

/* Two output columns as sums of 32 bits, RGB and a zero each. */
__attribute__((target("avx2"))) static __m256i two_columns(const int16_t *row, const int32_t *first, const int16_t *pairs) {
    const __m256i order = _mm256_setr_epi8(
        0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1, 0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
    __m256i values = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(row + first[0]))),
        _mm_loadu_si128((const __m128i *)(row + first[1])), 1);
    __m256i sums = _mm256_madd_epi16(_mm256_shuffle_epi8(values, order), _mm256_loadu_si256((const __m256i *)pairs));
    return _mm256_srai_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32(1 << 17)), 18);
}

/* The same, four columns at a time. It reads 8 values from each source column on, and writes 16 bytes for 12. */
__attribute__((target("avx2"))) static void mix_columns_avx2(
    const int16_t *row, const Memory *memory, size_t size, uint8_t *out) {
    const __m128i packed = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    size_t from = 0;
    for (; from + 6 <= size; from += 4) {
        const int32_t *first = memory->first + from;
        const int16_t *pairs = memory->pairs + from * 8;
        __m256i both = _mm256_packs_epi32(two_columns(row, first, pairs), two_columns(row, first + 2, pairs + 16));
        __m256i bytes = _mm256_packus_epi16(both, both); /* columns 0, 2 and 1, 3 */
        __m128i four = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_storeu_si128((__m128i *)(out + from * CHANNELS), _mm_shuffle_epi8(four, packed));
    }
    mix_columns(row, memory, from, size, out);
}
#endif

static int crop(const Job *job, const uint8_t *jpeg, Memory *memory, int fast) {
    if (job->pixels < 1 || job->height < 1 || job->width < 1 || job->top < 0 || job->left < 0) return 0;
    size_t stride, begin, size = (size_t)job->pixels, count = (size_t)job->width * CHANNELS, values = size * CHANNELS;
    if (!decode_part(job, jpeg, memory, &stride, &begin)) return 0;
    if (!reserve((void **)&memory->row, &memory->num_row, count + SLACK, sizeof(int16_t))) return 0;
    if (!reserve((void **)&memory->first, &memory->num_first, size, sizeof(int32_t))) return 0;
    if (!reserve((void **)&memory->pairs, &memory->num_pairs, size * 8, sizeof(int16_t))) return 0;
    if (!reserve((void **)&memory->columns, &memory->num_columns, 3 * (values + SLACK), sizeof(int16_t))) return 0;
    memset(memory->row + count, 0, SLACK * sizeof(int16_t));
    int16_t *weights = memory->columns + 2 * (values + SLACK);
    for (int32_t column = 0; column < job->pixels; column++) {
        int32_t first, weight;
        place(column, job->pixels, job->width, &first, &weight);
        size_t to = (size_t)(job->flip ? job->pixels - 1 - column : column);
        memory->first[to] = first * CHANNELS;
        for (size_t pair = to * 8; pair < to * 8 + 8; pair += 2) {
            memory->pairs[pair] = (int16_t)(ONE - weight);
            memory->pairs[pair + 1] = (int16_t)weight;
        }
        for (size_t value = to * CHANNELS; value < to * CHANNELS + CHANNELS; value++) weights[value] = (int16_t)weight;
    }
    for (int32_t number = 0; number < job->pixels; number++) {
        int32_t first, weight;
        place(number, job->pixels, job->height, &first, &weight);
        const uint8_t *a = memory->pixels + stride * (size_t)first + begin, *b = weight ? a + stride : a;
        uint8_t *out = job->out + values * (size_t)number;
#ifdef HAS_AVX2
        if (fast) {
            mix_rows_avx2(a, b, weight, count, memory->row);
            mix_columns_avx2(memory->row, memory, size, out);
            continue;
        }
#endif
        mix_rows(a, b, weight, count, memory->row);
        mix_columns(memory->row, memory, 0, size, out);
    }
    return 1;
}

static int read_all(int file, int64_t offset, uint8_t *to, size_t size) {
    while (size) {
        ssize_t done = pread(file, to, size, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return 0;
        offset += done;
        to += done;
        size -= (size_t)done;
    }
    return 1;
}

/* Height and width of a JPEG by its header. */
static int measure(const uint8_t *jpeg, size_t size, Job *job) {
    if (size < 2 || jpeg[0] != 0xFF || jpeg[1] != 0xD8) return 0;
    for (size_t at = 2; at + 9 <= size && jpeg[at] == 0xFF;) {
        uint8_t kind = jpeg[at + 1];
        if (kind >= 0xC0 && kind <= 0xCF && kind != 0xC4 && kind != 0xC8 && kind != 0xCC) {
            job->height = jpeg[at + 5] << 8 | jpeg[at + 6];
            job->width = jpeg[at + 7] << 8 | jpeg[at + 8];
            return job->height > 0 && job->width > 0;
        }
        if (kind < 0xC0 || (kind >= 0xD0 && kind <= 0xDA)) return 0;
        at += 2 + (size_t)(jpeg[at + 2] << 8 | jpeg[at + 3]);
    }
    return 0;
}

static int same_hashes(const Job *job, const uint8_t *content, const uint8_t *texts, Hash *hash) {
    if (!job->block) return 1;
    if (job->hashes < 0) return hash(content, job->size) == job->hash;
    const uint8_t *stored = texts + job->hashes;
    for (uint64_t begin = 0; begin < job->size; begin += (uint64_t)job->block, stored += sizeof(uint32_t)) {
        uint64_t left = job->size - begin, size = left < (uint64_t)job->block ? left : (uint64_t)job->block;
        uint32_t wanted;
        memcpy(&wanted, stored, sizeof wanted);
        if ((uint32_t)hash(content + begin, size) != wanted) return 0;
    }
    return 1;
}

/* Copy float16 values. Returns 0 if one of them is infinite or not a number. */
static int copy_finite(const uint8_t *from, uint64_t size, uint8_t *to) {
    uint16_t largest = 0;
    for (uint64_t at = 0; at + 1 < size; at += 2) {
        uint16_t bits;
        memcpy(&bits, from + at, 2);
        memcpy(to + at, &bits, 2);
        bits &= 0x7FFF;
        largest = bits > largest ? bits : largest;
    }
    return largest < 0x7C00;
}

static int read_one(Job *job, uint8_t *kept, const uint8_t *texts, Hash *hash, Memory *memory) {
    size_t ahead = job->name < 0 ? 0 : TAR_HEADER;
    if (job->copied && !reserve((void **)&memory->bytes, &memory->num_bytes, ahead + job->size, 1)) return FAILED;
    uint8_t *begin = job->copied ? memory->bytes : kept + job->place, *content = begin + ahead;
    if (!read_all(job->file, job->offset - (int64_t)ahead, begin, ahead + job->size)) return FAILED;
    if (ahead && strncmp((const char *)begin, (const char *)texts + job->name, TAR_NAME)) return FAILED;
    if (!same_hashes(job, content, texts, hash)) return FAILED;
    if (job->copied) return copy_finite(content + job->skipped, job->copied, job->out) ? DONE : FAILED;
    return measure(content, job->size, job) ? READ : FAILED;
}

/* The memory that one thread reuses for its jobs, until avkit_close. */
Memory *avkit_open(void) { return calloc(1, sizeof(Memory)); }

void avkit_close(Memory *memory) {
    if (memory == NULL) return;
    free(memory->bytes);
    free(memory->pixels);
    free(memory->row);
    free(memory->first);
    free(memory->pairs);
    free(memory->columns);
    free(memory);
}

/* Read what jobs need. Windows are done then; of pictures height and width are set. */
void avkit_read(Job *jobs, int32_t num_jobs, uint8_t *kept, const uint8_t *texts, Hash *hash, Memory *memory) {
    for (int32_t number = 0; number < num_jobs; number++)
        if (jobs[number].done == TO_READ) jobs[number].done = read_one(jobs + number, kept, texts, hash, memory);
}

/* Make the crops of pictures that were read. */
void avkit_crop(Job *jobs, int32_t num_jobs, const uint8_t *kept, Memory *memory, int32_t plain) {
    int fast = 0;
#ifdef HAS_AVX2
    fast = !plain && HAS_AVX2;
#endif
    for (int32_t number = 0; number < num_jobs; number++) {
        Job *job = jobs + number;
        const uint8_t *jpeg = kept + job->place + (job->name < 0 ? 0 : TAR_HEADER);
        if (job->done == READ) job->done = crop(job, jpeg, memory, fast) ? DONE : FAILED;
    }
}
