/* special.h - finds special tokens (control, unknown, user-defined) in a text, longest first.
 *
 * User-defined tokens are text with an id of its own and are found everywhere; control and unknown
 * tokens only where the caller trusts the text. Cost: one table look-up a byte, and where some
 * special piece may begin, two binary searches a byte of the longest piece that the text follows;
 * pieces are limited in length, so a text costs linear time. Thread: any after new. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

enum { QH_SPECIAL_MAX_BYTES = 1024 };
typedef struct qh_specials qh_specials;

/* v is borrowed. QH_ELIMIT names a special piece longer than QH_SPECIAL_MAX_BYTES. */
qh_status qh_specials_new(qh_specials **out, const qh_vocab *v, qh_err *err);
void qh_specials_free(qh_specials *s);

/* The first position in text[from .. to) whose byte some special piece begins with, or to. */
size_t qh_specials_skip(const qh_specials *s, const char *text, size_t from, size_t to,
                        bool is_trusted);
/* The longest special token that begins at text[at]; QH_NO_TOKEN. User-defined ones must end within
 * len, control and unknown ones within trusted_end too (0: none of them). */
qh_token qh_specials_match(const qh_specials *s, const char *text, size_t at, size_t len,
                           size_t trusted_end, size_t *hit_len);
