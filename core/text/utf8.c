/* utf8.c - see utf8.h */
#include "text/utf8.h"
#include <stdint.h>
#include <string.h>

/* What the lead byte asks for: the length, and the range of the second byte, which is where
 * overlong forms, surrogates and too large code points show. Later bytes are 80..BF. */
typedef struct {
    int len;
    unsigned char lo, hi;
} lead_rule;

static lead_rule rule_of(unsigned char c)
{
    if (c < 0x80) return (lead_rule){1, 0, 0};
    if (c < 0xc2) return (lead_rule){0, 0, 0};
    if (c < 0xe0) return (lead_rule){2, 0x80, 0xbf};
    if (c == 0xe0) return (lead_rule){3, 0xa0, 0xbf};
    if (c == 0xed) return (lead_rule){3, 0x80, 0x9f};
    if (c < 0xf0) return (lead_rule){3, 0x80, 0xbf};
    if (c == 0xf0) return (lead_rule){4, 0x90, 0xbf};
    if (c < 0xf4) return (lead_rule){4, 0x80, 0xbf};
    if (c == 0xf4) return (lead_rule){4, 0x80, 0x8f};
    return (lead_rule){0, 0, 0};
}

/* How many of the rule.len bytes at p are there and right, at least the lead. */
static int good_bytes(const unsigned char *p, size_t n, lead_rule rule)
{
    int i = 1;
    for (; i < rule.len && (size_t)i < n; i++) {
        unsigned char lo = i == 1 ? rule.lo : 0x80, hi = i == 1 ? rule.hi : 0xbf;
        if (p[i] < lo || p[i] > hi) break;
    }
    return i;
}

int qh_utf8_len(const char *p, size_t n)
{
    if (!n) return 0;
    lead_rule rule = rule_of((unsigned char)*p);
    return rule.len && good_bytes((const unsigned char *)p, n, rule) == rule.len ? rule.len : 0;
}

int qh_utf8_partial(const char *p, size_t n)
{
    if (!n) return 0;
    lead_rule rule = rule_of((unsigned char)*p);
    if (!rule.len) return 0;
    int good = good_bytes((const unsigned char *)p, n, rule);
    return good < rule.len ? good : 0;
}

size_t qh_utf8_span(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        int len = qh_utf8_len(p + i, n - i);
        if (!len) break;
        i += (size_t)len;
    }
    return i;
}
