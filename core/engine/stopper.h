/* stopper.h - finds stop strings in a text that arrives in pieces, and never lets half of one out.
 *
 * Text that might be the beginning of a stop string is held back until it is clear. The match that ends
 * first counts, of those that end together the longest. One automaton state per string (Knuth, Morris,
 * Pratt 1977): constant work per byte and string, however the text repeats itself.
 * The set is made once a job and read by all its choices; a stopper belongs to one choice. */
#pragma once
#include "base/err.h"
#include "base/str.h"

enum { QH_MAX_STOP_STRINGS = 64, QH_MAX_STOP_BYTES = 1024 };

typedef struct {
    const char *const *strings; /* [n] borrowed, none empty, whole UTF-8 characters */
    int n;
    size_t *lens;               /* [n] */
    int **borders;              /* [n][len] longest proper border of each beginning */
    bool keep;                  /* leave the stop string in the text */
} qh_stop_set;

qh_status qh_stop_set_init(qh_stop_set *s, const char *const *strings, int n, bool keep);   /* QH_ENOMEM */
void      qh_stop_set_deinit(qh_stop_set *s);       /* zeroed is fine */

typedef struct {
    const qh_stop_set *set;     /* borrowed */
    int *states;                /* [n] bytes of each string that the text's end matches */
    qh_str held;
} qh_stopper;

qh_status qh_stopper_init(qh_stopper *s, const qh_stop_set *set);   /* QH_ENOMEM */
void      qh_stopper_deinit(qh_stopper *s);         /* zeroed is fine */

/* More text; what is certain is appended to out. Returns the index of the string that stopped it, or -1.
 * After a match nothing may be pushed. */
int       qh_stopper_push(qh_stopper *s, const char *text, size_t len, qh_str *out);
/* The text ends: what was held back is appended to out. */
void      qh_stopper_finish(qh_stopper *s, qh_str *out);
