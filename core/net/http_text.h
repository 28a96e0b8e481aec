/* http_text.h - small text forms around HTTP: reasons, dates, percent-encoding.
 *
 * Thread: any. */
#pragma once
#include "base/err.h"
#include "base/str.h"

const char *qh_http_reason(int http_status);    /* "Not Found"; "" when unknown */

/* Append s with %XX decoded; is_form: also '+' as space. QH_EFORMAT: a bad escape; out is then as
 * before. RFC 3986 section 2.1. */
qh_status qh_url_decode(qh_str *out, const char *s, size_t len_bytes, bool is_form);
void      qh_url_encode(qh_str *out, const char *s, size_t len_bytes); /* all but unreserved as %XX */
