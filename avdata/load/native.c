/* Decodes JPEGs, crops them and resizes the crops, several at a time, without Python between them.

   Only the part of a picture that its crop needs is decoded. The resizing is linear, with weights of 11 bits, as
   OpenCV's INTER_LINEAR. Whatever is out of the ordinary ends a job undone: Python then does it, and says what is wrong.
   avdata/load/native.py builds this file and calls it. */

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { CHANNELS = 3, ONE = 2048, MARGIN = 16, SLACK = 32 };

typedef struct {
    const uint8_t *jpeg;
    uint64_t num_bytes;
    uint8_t *out; /* size x size pixels of RGB */
    int32_t top, left, height, width, flip;
    int32_t size;
    int32_t done; /* set to 1 if the job was done */
    int32_t unused;
} Job;

typedef struct {
    uint8_t *pixels;
    size_t num_pixels;
    int16_t *row; /* a resized row, before its columns are */
    size_t num_row;
    int32_t *first, *weight; /* of each output column: source column, weight of the next one */
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

/* Decode the rows of a crop, with a margin at its sides. Sets the bytes of a row and the crop's first byte in it. */
static int decode_part(const Job *job, Memory *memory, size_t *stride, size_t *begin) {
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
    jpeg_mem_src(&info, (unsigned char *)job->jpeg, (unsigned long)job->num_bytes);
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

/* Mix two rows: row = (a * (ONE - weight) + b * weight) / 16, which fits 15 bits. */
static void mix_rows(const uint8_t *a, const uint8_t *b, int32_t weight, size_t count, int16_t *row) {
    size_t place = 0;
#ifdef __SSE2__
    const __m128i zero = _mm_setzero_si128(), weights = _mm_set1_epi32((weight << 16) | (ONE - weight));
    for (; place + 16 <= count; place += 16) {
        __m128i one = _mm_loadu_si128((const __m128i *)(a + place)), two = _mm_loadu_si128((const __m128i *)(b + place));
        __m128i low = _mm_unpacklo_epi8(one, two), high = _mm_unpackhi_epi8(one, two);
        __m128i part[4] = {
            _mm_unpacklo_epi8(low, zero), _mm_unpackhi_epi8(low, zero),
            _mm_unpacklo_epi8(high, zero), _mm_unpackhi_epi8(high, zero),
        };
        for (int number = 0; number < 4; number++)
            part[number] = _mm_srai_epi32(_mm_madd_epi16(part[number], weights), 4);
        _mm_storeu_si128((__m128i *)(row + place), _mm_packs_epi32(part[0], part[1]));
        _mm_storeu_si128((__m128i *)(row + place + 8), _mm_packs_epi32(part[2], part[3]));
    }
#endif
    for (; place < count; place++) row[place] = (int16_t)((a[place] * (ONE - weight) + b[place] * weight) >> 4);
}

/* Mix neighboring columns of a row into an output row. `row` has SLACK values behind its end. */
static void mix_columns(const int16_t *row, const Memory *memory, int32_t size, int32_t flip, uint8_t *out) {
    for (int32_t number = 0; number < size; number++) {
        int32_t column = flip ? size - 1 - number : number, weight = memory->weight[column];
        const int16_t *at = row + (size_t)memory->first[column] * CHANNELS;
#ifdef __SSE2__
        __m128i pairs = _mm_unpacklo_epi16(
            _mm_loadl_epi64((const __m128i *)at), _mm_loadl_epi64((const __m128i *)(at + CHANNELS)));
        __m128i sums = _mm_madd_epi16(pairs, _mm_set1_epi32((weight << 16) | (ONE - weight)));
        sums = _mm_srai_epi32(_mm_add_epi32(sums, _mm_set1_epi32(1 << 17)), 18);
        sums = _mm_packs_epi32(sums, sums);
        int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(sums, sums));
        memcpy(out + (size_t)number * CHANNELS, &pixel, number + 1 < size ? 4 : CHANNELS);
#else
        for (int channel = 0; channel < CHANNELS; channel++) {
            int32_t sum = at[channel] * (ONE - weight) + at[channel + CHANNELS] * weight;
            out[(size_t)number * CHANNELS + channel] = (uint8_t)((sum + (1 << 17)) >> 18);
        }
#endif
    }
}

static int do_job(const Job *job, Memory *memory) {
    if (job->size < 1 || job->height < 1 || job->width < 1 || job->top < 0 || job->left < 0) return 0;
    size_t stride, begin, size = (size_t)job->size, count = (size_t)job->width * CHANNELS;
    if (!decode_part(job, memory, &stride, &begin)) return 0;
    size_t columns = memory->num_columns;
    if (!reserve((void **)&memory->row, &memory->num_row, count + SLACK, sizeof(int16_t))) return 0;
    if (!reserve((void **)&memory->first, &columns, size, sizeof(int32_t))) return 0;
    if (!reserve((void **)&memory->weight, &memory->num_columns, size, sizeof(int32_t))) return 0;
    memset(memory->row + count, 0, SLACK * sizeof(int16_t));
    for (int32_t column = 0; column < job->size; column++)
        place(column, job->size, job->width, memory->first + column, memory->weight + column);
    for (int32_t number = 0; number < job->size; number++) {
        int32_t first, weight;
        place(number, job->size, job->height, &first, &weight);
        const uint8_t *a = memory->pixels + stride * (size_t)first + begin;
        mix_rows(a, weight ? a + stride : a, weight, count, memory->row);
        mix_columns(memory->row, memory, job->size, job->flip, job->out + size * CHANNELS * (size_t)number);
    }
    return 1;
}

/* Do some jobs. Each one's `done` says whether it was done. */
void avkit_crop(Job *jobs, int32_t num_jobs) {
    Memory memory = {0};
    for (int32_t number = 0; number < num_jobs; number++) jobs[number].done = do_job(jobs + number, &memory);
    free(memory.pixels);
    free(memory.row);
    free(memory.first);
    free(memory.weight);
}
