/* http_text.h - small text forms around HTTP: reasons, dates, percent-encoding, server-sent events.
 *
 * Thread: any. */
#pragma once
#include "base/err.h"
#include "base/str.h"

const char *qh_http_reason(int http_status);    /* "Not Found"; "" when unknown */

/* Append one server-sent event; name NULL: none. A line break in data starts another data line.
 * HTML Living Standard, section 9.2. */
void qh_sse_append(qh_str *out, const char *name, const char *data, size_t len_bytes);

/* Append s with %XX decoded; is_form: also '+' as space. QH_EFORMAT: a bad escape; out is then as
 * before. RFC 3986 section 2.1. */
qh_status qh_url_decode(qh_str *out, const char *s, size_t len_bytes, bool is_form);
void      qh_url_encode(qh_str *out, const char *s, size_t len_bytes); /* all but unreserved as %XX */
