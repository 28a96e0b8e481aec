/* requantize.h - a model file written again with its matrices in another type.
 *
 * Works tensor by tensor in pieces of a few MB, on n_threads threads; the result is the same for
 * any number of them. Errors of an already quantized input add up. Thread: any, blocks. */
#pragma once
#include "model/recipe.h"

typedef struct {
    const qh_gguf_tensor *tensor;   /* borrowed from the input */
    qh_dtype from, to;
    uint64_t n_bytes;               /* as written */
    double rms_value, rms_error;    /* of the input's values, and of what changed; 0 when copied */
    double max_error;
} qh_requantized;

typedef struct {
    int n_threads;                  /* at least 1 */
    /* Optional. Called after every piece; false: stop with QH_ECANCELED. */
    bool (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void (*on_tensor)(void *arg, const qh_requantized *r);      /* optional, in file order */
    void *arg;
} qh_requantize_opts;

/* Write in as path, whole or not at all (see gguf_writer.h). QH_EFORMAT: a value that is not
 * finite, by tensor and place. */
qh_status qh_requantize(const qh_gguf *in, const char *path, const qh_recipe *recipe,
                        const qh_requantize_opts *opts, qh_err *err);
