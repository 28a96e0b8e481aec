/* base_encoding.c - see base_encoding.h */
#include "text/base_encoding.h"
#include <string.h>

static const char HEX[] = "0123456789abcdef";
static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

static char digit_of(qh_base_encoding how, unsigned v)
{
    if (v < 62) return DIGITS[v];
    return how == QH_BASE64 ? "+/"[v - 62] : "-_"[v - 62];
}

static int value_of(qh_base_encoding how, char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == (how == QH_BASE64 ? '+' : '-')) return 62;
    if (c == (how == QH_BASE64 ? '/' : '_')) return 63;
    return -1;
}

static void encode_hex(qh_str *out, const unsigned char *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        qh_str_append_c(out, HEX[p[i] >> 4]);
        qh_str_append_c(out, HEX[p[i] & 15]);
    }
}

void qh_base_encode(qh_str *out, qh_base_encoding how, const void *data, size_t len_bytes)
{
    const unsigned char *p = data;
    if (how == QH_HEX) {
        encode_hex(out, p, len_bytes);
        return;
    }
    for (size_t i = 0; i < len_bytes; i += 3) {
        size_t n = len_bytes - i < 3 ? len_bytes - i : 3;
        unsigned bits = (unsigned)p[i] << 16;
        if (n > 1) bits |= (unsigned)p[i + 1] << 8;
        if (n > 2) bits |= p[i + 2];
        for (size_t k = 0; k < 4; k++) {
            if (k <= n)
                qh_str_append_c(out, digit_of(how, bits >> (18 - 6 * k) & 63));
            else if (how == QH_BASE64)
                qh_str_append_c(out, '=');
        }
    }
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static qh_status decode_hex(qh_str *out, const char *s, size_t len, qh_err *err)
{
    if (len % 2) return qh_fail(err, QH_EFORMAT, "hexadecimal: %zu digits, an odd number", len);
    for (size_t i = 0; i < len; i += 2) {
        int hi = hex_value(s[i]), lo = hex_value(s[i + 1]);
        if (hi < 0 || lo < 0)
            return qh_fail(err, QH_EFORMAT, "hexadecimal: byte %zu is no digit",
                           i + (hi < 0 ? 1 : 2));
        qh_str_append_c(out, (char)(hi << 4 | lo));
    }
    return QH_OK;
}

qh_status qh_base_decode(qh_str *out, qh_base_encoding how, const char *text, size_t len_bytes,
                         qh_err *err)
{
    if (how == QH_HEX) return decode_hex(out, text, len_bytes, err);
    size_t len = len_bytes;
    if (len % 4 == 0)
        while (len && len_bytes - len < 2 && text[len - 1] == '=') len--;
    if (len % 4 == 1)
        return qh_fail(err, QH_EFORMAT, "base64: %zu characters cannot be whole bytes", len);
    unsigned bits = 0;
    int n_bits = 0;
    for (size_t i = 0; i < len; i++) {
        int v = value_of(how, text[i]);
        if (v < 0)
            return qh_fail(err, QH_EFORMAT, "base64: byte %zu is not of its alphabet", i + 1);
        bits = bits << 6 | (unsigned)v;
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        qh_str_append_c(out, (char)(bits >> n_bits & 255));
    }
    if (bits & ((1u << n_bits) - 1))
        return qh_fail(err, QH_EFORMAT, "base64: the last character has bits of no byte");
    return QH_OK;
}
