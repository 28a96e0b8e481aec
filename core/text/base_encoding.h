/* base_encoding.h - bytes as hexadecimal and as base64, to and fro (RFC 4648). Thread: any. */
#pragma once
#include "base/err.h"
#include "base/str.h"

typedef enum {
    QH_HEX,      /* lower case; either case is read */
    QH_BASE64,   /* padded; read with or without padding */
    QH_BASE64URL /* '-' and '_', without padding; read with or without */
} qh_base_encoding;

void qh_base_encode(qh_str *out, qh_base_encoding how, const void *data, size_t len_bytes);
/* Appends. QH_EFORMAT: another character than the encoding has (white space too), a wrong length,
 * or bits left over; err names the place. */
qh_status qh_base_decode(qh_str *out, qh_base_encoding how, const char *text, size_t len_bytes,
                         qh_err *err);
