/* http1.c - see http1.h */
#include "net/http1.h"
#include "base/mem.h"
#include <string.h>
#include <strings.h>

enum {
    MAX_CHUNK_SIZE_DIGITS = 16,     /* leading zeros count: nobody needs more */
    MAX_CHUNK_EXT_BYTES = 4096,     /* of all chunks of one body */
    MAX_LENGTH_DIGITS = 18,         /* fits int64_t */
};

enum state {
    START,                          /* between requests */
    REQUEST_LINE,
    FIELDS,
    HEAD_DONE,                      /* HEAD was returned */
    LENGTH_BODY,
    CHUNK_SIZE,
    EXT_NAME_START,                 /* after ';' */
    EXT_NAME,
    EXT_AFTER_NAME,                 /* white space after a name */
    EXT_VALUE_START,                /* after '=' */
    EXT_VALUE,
    EXT_QUOTED,
    EXT_ESCAPED,                    /* after '\' in quotes */
    EXT_QUOTED_END,
    EXT_AFTER_VALUE,                /* white space after a value */
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    TRAILERS,
    DONE,                           /* END is due */
    BROKEN,
};

/* ---- byte classes ---- */

enum { TCHAR = 1, VALUE = 2, LOWER = 4, DIGIT = 8, REGNAME = 16, HEX = 32 };
enum { T = TCHAR | VALUE, R = REGNAME };

/* TCHAR: RFC 9110 section 5.6.2. VALUE: what a field value may hold (5.5). REGNAME: unreserved and
 * sub-delims of RFC 3986, without the percent sign. */
static const unsigned char CLASS[256] = {
    ['\t'] = VALUE,         [' '] = VALUE,          ['!'] = T | R,
    ['"'] = VALUE,          ['#'] = T,              ['$'] = T | R,
    ['%'] = T,              ['&' ... '\''] = T | R, ['(' ... ')'] = VALUE | R,
    ['*' ... '+'] = T | R,  [','] = VALUE | R,      ['-' ... '.'] = T | R,
    ['/'] = VALUE,          [':'] = VALUE,          [';'] = VALUE | R,
    ['<'] = VALUE,          ['='] = VALUE | R,      ['>' ... '@'] = VALUE,
    ['0' ... '9'] = T | R | DIGIT | HEX,            ['A' ... 'F'] = T | R | HEX,
    ['G' ... 'Z'] = T | R,  ['[' ... ']'] = VALUE,  ['^'] = T,
    ['_'] = T | R,          ['`'] = T,              ['a' ... 'f'] = T | R | LOWER | HEX,
    ['g' ... 'z'] = T | R | LOWER,                  ['{'] = VALUE,
    ['|'] = T,              ['}'] = VALUE,          ['~'] = T | R,
    [0x80 ... 0xff] = VALUE,
};

static inline bool is_class(char c, int wanted) { return CLASS[(unsigned char)c] & wanted; }
static inline bool is_blank(char c) { return c == ' ' || c == '\t'; }

static bool all_of(const char *s, size_t len, int wanted)
{
    for (size_t i = 0; i < len; i++)
        if (!is_class(s[i], wanted)) return false;
    return true;
}

bool qh_http1_is_token(const char *s) { return *s && all_of(s, strlen(s), TCHAR); }
bool qh_http1_is_field_value(const char *s) { return all_of(s, strlen(s), VALUE); }

static int hex_value(char c)
{
    if (c <= '9') return c - '0';
    return (c | 0x20) - 'a' + 10;
}

/* Length of the UTF-8 character at s, of len bytes left: shortest form, no surrogates (RFC 3629). */
static size_t utf8_len(const char *s, size_t len)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned lo = 0x80, hi = 0xbf;
    size_t n;
    if (u[0] >= 0xc2 && u[0] <= 0xdf) n = 2;
    else if (u[0] >= 0xe0 && u[0] <= 0xef) n = 3;
    else if (u[0] >= 0xf0 && u[0] <= 0xf4) n = 4;
    else return 0;
    if (u[0] == 0xe0) lo = 0xa0;
    if (u[0] == 0xed) hi = 0x9f;
    if (u[0] == 0xf0) lo = 0x90;
    if (u[0] == 0xf4) hi = 0x8f;
    if (len < n || u[1] < lo || u[1] > hi) return 0;
    for (size_t i = 2; i < n; i++)
        if (u[i] < 0x80 || u[i] > 0xbf) return 0;
    return n;
}

/* ---- failures ---- */

static bool refuse(qh_http1 *p, int http_status, const char *code, const char *message)
{
    p->state = BROKEN;
    p->bad = (qh_http1_error){http_status, code, message};
    return false;
}

static bool malformed(qh_http1 *p, const char *message)
{
    return refuse(p, 400, "malformed_request", message);
}

/* ---- the request line ---- */

/* host [":" port], RFC 3986 section 3.2. An IPv6 literal is checked by its characters only. */
static bool is_host_port(const char *s, size_t len, bool needs_port)
{
    size_t i = 0;
    if (len && s[0] == '[') {
        for (i = 1; i < len && (is_class(s[i], HEX) || s[i] == ':' || s[i] == '.'); i++) {}
        if (i < 3 || i == len || s[i] != ']') return false;
        i++;
    } else {
        for (; i < len && s[i] != ':'; i++) {
            if (is_class(s[i], REGNAME)) continue;
            if (s[i] != '%' || len - i < 3 || !all_of(s + i + 1, 2, HEX)) return false;
            i += 2;
        }
    }
    if (i == len) return !needs_port;
    if (s[i] != ':') return false;
    size_t n_digits = len - i - 1;
    return n_digits <= 5 && (n_digits || !needs_port) && all_of(s + i + 1, n_digits, DIGIT);
}

/* [userinfo "@"] host [":" port] of an absolute target; the host may not be empty. */
static bool is_authority(const char *s, size_t len)
{
    const char *at = memrchr(s, '@', len);
    if (at) {
        for (const char *c = s; c < at; c++)
            if (!is_class(*c, REGNAME) && *c != ':' && *c != '%') return false;
        len -= (size_t)(at + 1 - s);
        s = at + 1;
    }
    return len && s[0] != ':' && is_host_port(s, len, false);
}

static size_t scheme_len(const char *target)
{
    if (!strncasecmp(target, "http://", 7)) return 7;
    if (!strncasecmp(target, "https://", 8)) return 8;
    return 0;
}

/* Take path and query out of the target (RFC 9112 section 3.2). */
static bool split_target(qh_http1 *p)
{
    qh_http1_head *h = &p->head;
    const char *t = h->target;
    bool is_connect = !strcmp(h->method, "CONNECT");
    if (is_connect || *t == '*') {
        if (is_connect && !is_host_port(t, strlen(t), true))
            return malformed(p, "the target of CONNECT must be host:port");
        if (!is_connect && (t[1] || strcmp(h->method, "OPTIONS")))
            return malformed(p, "the target * is for OPTIONS alone");
        h->path = h->split = qh_strdup(t);
        return true;
    }
    size_t n_scheme = scheme_len(t);
    if (n_scheme) {
        t += n_scheme;
        size_t n = strcspn(t, "/?#");
        if (!is_authority(t, n)) return malformed(p, "bad authority in the request target");
        t += n;
    } else if (*t != '/') {
        return malformed(p, "the request target must begin with / or http://");
    }
    size_t n_path = strcspn(t, "?#");
    const char *query = t[n_path] == '?' ? t + n_path + 1 : NULL;
    size_t n_query = query ? strcspn(query, "#") : 0;
    /* one block: path NUL query NUL */
    size_t n_shown = n_path ? n_path : 1;
    h->split = qh_alloc0(n_shown + n_query + 2);
    memcpy(h->split, n_path ? t : "/", n_shown);
    h->path = h->split;
    if (query) {
        memcpy(h->split + n_shown + 1, query, n_query);
        h->query = h->split + n_shown + 1;
    }
    return true;
}

static bool is_target_text(const char *s, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = 1;
        if ((unsigned char)s[i] >= 0x80) n = utf8_len(s + i, len - i);
        else if (s[i] <= ' ' || s[i] == 0x7f) n = 0;
        if (!n) return false;
        i += n;
    }
    return true;
}

/* method SP target SP "HTTP/1." digit. Strings are kept as offsets: text still moves. */
static bool take_request_line(qh_http1 *p, char *line, size_t len)
{
    char *sp = memchr(line, ' ', len);
    size_t n_method = sp ? (size_t)(sp - line) : len;
    if (!n_method || !all_of(line, n_method, TCHAR)) return malformed(p, "the method is no token");
    for (size_t i = 0; i < n_method; i++)
        if (is_class(line[i], LOWER)) return malformed(p, "the method has lower-case letters");
    if (!sp) return malformed(p, "the request line has no target");

    char *target = sp + 1;
    char *sp2 = memchr(target, ' ', len - n_method - 1);
    if (!sp2) return malformed(p, "the request line has no version");
    size_t n_target = (size_t)(sp2 - target);
    if (!n_target || !is_target_text(target, n_target))
        return malformed(p, "the request target is empty or has forbidden bytes");

    const char *version = sp2 + 1;
    size_t n_version = len - n_method - n_target - 2;
    if (n_version != 8 || memcmp(version, "HTTP/", 5) || !is_class(version[5], DIGIT) ||
        version[6] != '.' || !is_class(version[7], DIGIT))
        return malformed(p, "the request line must end in HTTP/1.1 or HTTP/1.0");
    if (version[5] != '1' || version[7] > '1')
        return refuse(p, 505, "version_not_supported", "only HTTP/1.1 and HTTP/1.0 are spoken here");
    p->head.version = 10 + (version[7] - '0');

    *sp = *sp2 = 0;
    p->offsets[0] = 0;
    p->offsets[1] = n_method + 1;
    p->n_offsets = 2;
    return true;
}

/* ---- fields ---- */

enum seen { HOST = 1, LENGTH = 2, CONTENT_TYPE = 4, AUTHORIZATION = 8, EXPECT = 16, CLOSE = 32, KEEP = 64 };

static bool is_name(const char *name, const char *wanted) { return !strcasecmp(name, wanted); }

/* The next member of a comma-separated list, trimmed; false at its end. Empty members are skipped. */
static bool next_member(const char **rest, const char **member, size_t *len)
{
    const char *s = *rest;
    while (*s == ',' || is_blank(*s)) s++;
    if (!*s) return false;
    size_t n = strcspn(s, ",");
    *member = s;
    *rest = s + n;
    while (n && is_blank(s[n - 1])) n--;
    *len = n;
    return true;
}

static bool is_word(const char *s, size_t len, const char *word)
{
    return strlen(word) == len && !strncasecmp(s, word, len);
}

static bool take_one_coding(qh_http1 *p, const char *name, size_t len)
{
    if (p->is_chunked) return malformed(p, "chunked must be the last transfer coding, once");
    if (is_word(name, len, "chunked")) {
        p->is_chunked = true;
    } else if (is_word(name, len, "gzip") || is_word(name, len, "deflate") ||
               is_word(name, len, "compress")) {
        p->head.has_coding = true;
    } else if (!is_word(name, len, "identity")) {
        return refuse(p, 501, "unknown_transfer_coding", "unknown transfer coding");
    }
    return true;
}

static bool take_coding(qh_http1 *p, const char *value)
{
    const char *m;
    size_t n;
    if (p->head.version == 10) return malformed(p, "Transfer-Encoding in an HTTP/1.0 request");
    if (!*value || *value == ',' || value[strlen(value) - 1] == ',')
        return malformed(p, "empty transfer coding");
    while (next_member(&value, &m, &n))
        if (!take_one_coding(p, m, n)) return false;
    return true;
}

static bool take_length(qh_http1 *p, const char *value)
{
    size_t n = strlen(value);
    if (!n || n > MAX_LENGTH_DIGITS || !all_of(value, n, DIGIT))
        return malformed(p, "Content-Length is not a plain number");
    int64_t v = 0;
    for (size_t i = 0; i < n; i++) v = v * 10 + (value[i] - '0');
    p->head.body_len_bytes = v;
    return true;
}

static void take_connection(qh_http1 *p, const char *value)
{
    const char *m;
    size_t n;
    while (next_member(&value, &m, &n)) {
        if (is_word(m, n, "close")) p->seen |= CLOSE;
        if (is_word(m, n, "keep-alive")) p->seen |= KEEP;
    }
}

/* Fields of which a second one makes the request ambiguous. */
static const struct {
    const char *name;
    unsigned bit;
} SINGLE[] = {
    {"host", HOST},
    {"content-length", LENGTH},
    {"content-type", CONTENT_TYPE},
    {"authorization", AUTHORIZATION},
    {"expect", EXPECT},
};

/* Names that mean a framing or routing field once '_' is read as '-'. */
static bool is_disguised(const char *name)
{
    static const char *const NAMES[] = {"content-length", "transfer-encoding"};
    if (!strchr(name, '_')) return false;
    for (size_t k = 0; k < sizeof NAMES / sizeof *NAMES; k++) {
        const char *a = name, *b = NAMES[k];
        while (*b && ((*a | 0x20) == *b || (*a == '_' && *b == '-') || *a == *b)) a++, b++;
        if (!*a && !*b) return true;
    }
    return false;
}

static bool take_head_field(qh_http1 *p, const char *name, const char *value)
{
    for (size_t k = 0; k < sizeof SINGLE / sizeof *SINGLE; k++) {
        if (!is_name(name, SINGLE[k].name)) continue;
        if (p->seen & SINGLE[k].bit)
            return malformed(p, "a field that may come once only came twice");
        p->seen |= SINGLE[k].bit;
    }
    if (is_disguised(name)) return malformed(p, "a framing field spelled with an underscore");
    if (is_name(name, "host")) {
        if (!is_host_port(value, strlen(value), false)) return malformed(p, "bad Host");
    } else if (is_name(name, "content-length")) {
        return take_length(p, value);
    } else if (is_name(name, "transfer-encoding")) {
        return take_coding(p, value);
    } else if (is_name(name, "connection")) {
        take_connection(p, value);
    } else if (is_name(name, "expect")) {
        if (strcasecmp(value, "100-continue"))
            return refuse(p, 417, "expectation_failed", "only Expect: 100-continue is known");
    }
    return true;
}

/* Trailers are checked and dropped. RFC 9110 section 6.5.1: none may change framing or routing. */
static bool take_trailer(qh_http1 *p, const char *name)
{
    static const char *const FORBIDDEN[] = {
        "content-length", "transfer-encoding", "host",       "trailer",     "te",     "connection",
        "keep-alive",     "upgrade",           "expect",     "authorization", "cookie",
        "content-encoding", "content-range",   "max-forwards",
    };
    for (size_t k = 0; k < sizeof FORBIDDEN / sizeof *FORBIDDEN; k++)
        if (is_name(name, FORBIDDEN[k])) return malformed(p, "forbidden trailer field");
    return !is_disguised(name) || malformed(p, "a framing field spelled with an underscore");
}

static void push_offset(qh_http1 *p, size_t offset)
{
    if (p->n_offsets == p->cap_offsets) {
        p->cap_offsets = p->cap_offsets ? p->cap_offsets * 2 : 32;
        p->offsets = qh_realloc(p->offsets, (size_t)p->cap_offsets * sizeof *p->offsets);
    }
    p->offsets[p->n_offsets++] = offset;
}

/* name ":" OWS value OWS, of a head or a trailer section. */
static bool take_field(qh_http1 *p, char *line, size_t len)
{
    if (is_blank(*line)) return malformed(p, "line folding is not allowed");
    char *colon = memchr(line, ':', len);
    if (!colon) return malformed(p, "a header line has no colon");
    size_t n_name = (size_t)(colon - line);
    if (!n_name || !all_of(line, n_name, TCHAR)) return malformed(p, "bad header name");
    char *value = colon + 1, *end = line + len;
    while (value < end && is_blank(*value)) value++;
    while (end > value && is_blank(end[-1])) end--;
    if (!all_of(value, (size_t)(end - value), VALUE))
        return malformed(p, "a header value has forbidden bytes");
    *colon = *end = 0;              /* the line's CR is still behind end */
    if (++p->n_section_fields > p->limits.max_fields)
        return refuse(p, 431, "too_many_headers", "too many header fields");
    if (p->state == TRAILERS) return take_trailer(p, line);
    push_offset(p, (size_t)(line - p->head.text.data));
    push_offset(p, (size_t)(value - p->head.text.data));
    return take_head_field(p, line, value);
}

/* ---- the end of a head ---- */

static bool check_framing(qh_http1 *p)
{
    qh_http1_head *h = &p->head;
    if (h->version == 11 && !(p->seen & HOST)) return malformed(p, "an HTTP/1.1 request needs a Host");
    if (p->is_chunked || h->has_coding) {
        if (p->seen & LENGTH) return malformed(p, "Content-Length beside Transfer-Encoding");
        if (!p->is_chunked) return malformed(p, "the last transfer coding of a request must be chunked");
        h->body_len_bytes = -1;
    }
    p->left_bytes = h->body_len_bytes;
    h->is_keep_alive = !(p->seen & CLOSE) && (h->version == 11 || (p->seen & KEEP));
    h->has_expect = (p->seen & EXPECT) && h->version == 11;
    return true;
}

static bool finish_head(qh_http1 *p)
{
    qh_http1_head *h = &p->head;
    h->method = h->text.data + p->offsets[0];
    h->target = h->text.data + p->offsets[1];
    h->n_fields = (p->n_offsets - 2) / 2;
    h->fields = qh_alloc0((size_t)h->n_fields * sizeof *h->fields);
    for (int i = 0; i < h->n_fields; i++)
        h->fields[i] = (qh_http_field){h->text.data + p->offsets[2 + 2 * i],
                                       h->text.data + p->offsets[3 + 2 * i]};
    return check_framing(p) && split_target(p);
}

/* ---- lines ---- */

static size_t line_limit(const qh_http1 *p)
{
    return p->state == REQUEST_LINE ? p->limits.max_line_bytes : p->limits.max_field_bytes;
}

static bool line_too_long(qh_http1 *p)
{
    if (p->state == REQUEST_LINE)
        return refuse(p, 414, "request_line_too_long", "the request line is too long");
    return refuse(p, 431, "header_too_long", "a header field is too long");
}

/* Collect bytes up to LF in head.text. True: a line with CRLF is complete and *line is it, NUL in
 * place of CR. False: more is needed, or the request was refused. */
static bool read_line(qh_http1 *p, const char *data, size_t len, size_t *used, char **line,
                      size_t *line_len)
{
    const char *lf = memchr(data, '\n', len);
    size_t n = lf ? (size_t)(lf - data) + 1 : len;
    qh_str *text = &p->head.text;
    if (text->len - p->line_start + n > line_limit(p)) return line_too_long(p);
    p->section_bytes += n;
    if (p->section_bytes > p->limits.max_head_bytes)
        return refuse(p, 431, "headers_too_long", "the request's header section is too long");
    qh_str_append(text, data, n);
    *used += n;
    if (!lf) return false;
    size_t n_line = text->len - p->line_start;
    if (n_line < 2 || text->data[text->len - 2] != '\r')
        return malformed(p, "a line ends in LF without CR");
    text->data[text->len - 2] = 0;
    *line = text->data + p->line_start;
    *line_len = n_line - 2;
    p->line_start = text->len;
    return true;
}

static void begin_section(qh_http1 *p, int state)
{
    qh_str_clear(&p->head.text);
    p->line_start = 0;
    p->section_bytes = 0;
    p->n_section_fields = 0;
    p->state = state;
}

/* One line of a head or of trailers. */
static void feed_line(qh_http1 *p, const char *data, size_t len, size_t *used)
{
    char *line;
    size_t n;
    if (!read_line(p, data, len, used, &line, &n)) return;
    if (p->state == REQUEST_LINE) {
        if (take_request_line(p, line, n)) p->state = FIELDS;
    } else if (n) {
        take_field(p, line, n);
        if (p->state == TRAILERS) qh_str_clear(&p->head.text), p->line_start = 0;
    } else if (p->state == FIELDS) {
        if (finish_head(p)) p->state = HEAD_DONE;
    } else {
        p->state = DONE;
    }
}

/* ---- chunks ---- */

static void begin_chunk_size(qh_http1 *p)
{
    p->left_bytes = 0;
    p->n_size_digits = 0;
    p->state = CHUNK_SIZE;
}

static bool take_size_digit(qh_http1 *p, char c)
{
    if (++p->n_size_digits > MAX_CHUNK_SIZE_DIGITS || p->left_bytes > INT64_MAX >> 4)
        return malformed(p, "chunk size too large");
    p->left_bytes = p->left_bytes << 4 | hex_value(c);
    return true;
}

/* Where a chunk extension goes with its next byte; BROKEN: nowhere. RFC 9112 section 7.1.1, but for
 * white space before the first ';', which is refused. */
static int next_ext_state(int state, char c)
{
    bool is_tchar = is_class(c, TCHAR);
    switch (state) {
    case EXT_NAME_START:
        return is_blank(c) ? EXT_NAME_START : is_tchar ? EXT_NAME : BROKEN;
    case EXT_NAME:
    case EXT_AFTER_NAME:
        if (is_tchar) return state == EXT_NAME ? EXT_NAME : BROKEN;
        return is_blank(c) ? EXT_AFTER_NAME : c == '=' ? EXT_VALUE_START : c == ';' ? EXT_NAME_START : BROKEN;
    case EXT_VALUE_START:
        return is_blank(c) ? EXT_VALUE_START : c == '"' ? EXT_QUOTED : is_tchar ? EXT_VALUE : BROKEN;
    case EXT_VALUE:
    case EXT_QUOTED_END:
    case EXT_AFTER_VALUE:
        if (is_tchar) return state == EXT_VALUE ? EXT_VALUE : BROKEN;
        return is_blank(c) ? EXT_AFTER_VALUE : c == ';' ? EXT_NAME_START : BROKEN;
    case EXT_QUOTED:
        return c == '"' ? EXT_QUOTED_END : c == '\\' ? EXT_ESCAPED : is_class(c, VALUE) ? EXT_QUOTED : BROKEN;
    case EXT_ESCAPED:
        return is_class(c, VALUE) ? EXT_QUOTED : BROKEN;
    }
    return BROKEN;
}

static bool can_end_size_line(int state)
{
    return state == CHUNK_SIZE || state == EXT_NAME || state == EXT_VALUE || state == EXT_QUOTED_END;
}

static void begin_chunk_data(qh_http1 *p)
{
    if (p->left_bytes) p->state = CHUNK_DATA;
    else begin_section(p, TRAILERS);
}

/* One byte of chunk framing. */
static void feed_framing(qh_http1 *p, char c)
{
    if (p->state == CHUNK_SIZE_LF || p->state == CHUNK_DATA_LF) {
        if (c != '\n') malformed(p, "CR without LF in a chunked body");
        else if (p->state == CHUNK_SIZE_LF) begin_chunk_data(p);
        else begin_chunk_size(p);
    } else if (p->state == CHUNK_DATA_CR) {
        if (c != '\r') malformed(p, "a chunk is longer than its size");
        else p->state = CHUNK_DATA_LF;
    } else if (c == '\r' && can_end_size_line(p->state) && p->n_size_digits) {
        p->state = CHUNK_SIZE_LF;
    } else if (p->state == CHUNK_SIZE) {
        if (is_class(c, HEX)) take_size_digit(p, c);
        else if (c == ';' && p->n_size_digits) p->state = EXT_NAME_START;
        else malformed(p, "bad chunk size");
    } else if (++p->n_ext_bytes > MAX_CHUNK_EXT_BYTES) {
        malformed(p, "chunk extensions too long");
    } else {
        p->state = next_ext_state(p->state, c);
        if (p->state == BROKEN) malformed(p, "bad chunk extension");
    }
}

/* ---- the machine ---- */

static void begin_body(qh_http1 *p)
{
    qh_http1_head_deinit(&p->head);     /* in case nobody took it */
    p->n_ext_bytes = 0;
    if (p->is_chunked) begin_chunk_size(p);
    else p->state = p->left_bytes ? LENGTH_BODY : DONE;
}

static void begin_request(qh_http1 *p)
{
    begin_section(p, REQUEST_LINE);
    p->n_offsets = 0;
    p->seen = 0;
    p->is_chunked = false;
}

static void feed_body(qh_http1 *p, const char *data, size_t len, size_t *used)
{
    size_t n = (uint64_t)p->left_bytes < len ? (size_t)p->left_bytes : len;
    p->piece = data;
    p->piece_len_bytes = n;
    p->left_bytes -= (int64_t)n;
    *used += n;
    if (p->left_bytes == 0) p->state = p->state == CHUNK_DATA ? CHUNK_DATA_CR : DONE;
}

qh_http1_event qh_http1_feed(qh_http1 *p, const char *data, size_t len_bytes, size_t *used)
{
    *used = 0;
    for (;;) {
        size_t left = len_bytes - *used;
        switch ((enum state)p->state) {
        case BROKEN:
            return QH_HTTP1_BAD;
        case DONE:
            begin_section(p, START);
            return QH_HTTP1_END;
        case HEAD_DONE:
            begin_body(p);
            continue;
        default:
            break;
        }
        if (!left) return QH_HTTP1_MORE;
        switch ((enum state)p->state) {
        case START:
            begin_request(p);
            /* Garbage need not have an LF: a TLS hello on a plain port is refused by its first byte. */
            if (!is_class(data[*used], TCHAR)) malformed(p, "a request begins with its method");
            break;
        case REQUEST_LINE:
        case FIELDS:
        case TRAILERS:
            feed_line(p, data + *used, left, used);
            if (p->state == HEAD_DONE) return QH_HTTP1_HEAD;
            break;
        case LENGTH_BODY:
        case CHUNK_DATA:
            feed_body(p, data + *used, left, used);
            return QH_HTTP1_BODY;
        default:
            feed_framing(p, data[(*used)++]);
            break;
        }
    }
}

qh_status qh_http1_finish(qh_http1 *p)
{
    if (p->state == START || p->state == DONE) return QH_OK;
    if (p->state == HEAD_DONE && !p->is_chunked && !p->left_bytes) return QH_OK;
    if (p->state != BROKEN) malformed(p, "the input ended in the middle of a request");
    return QH_EFORMAT;
}

bool qh_http1_is_idle(const qh_http1 *p) { return p->state == START; }

/* ---- life ---- */

void qh_http1_init(qh_http1 *p, qh_http1_limits limits)
{
    *p = (qh_http1){.limits = limits, .state = START};
    p->cap_offsets = 32;
    p->offsets = qh_alloc0((size_t)p->cap_offsets * sizeof *p->offsets);
}

void qh_http1_deinit(qh_http1 *p)
{
    qh_http1_head_deinit(&p->head);
    qh_free(p->offsets);
    *p = (qh_http1){.state = BROKEN};
}

qh_http1_head qh_http1_take_head(qh_http1 *p)
{
    qh_http1_head h = p->head;
    p->head = (qh_http1_head){0};
    return h;
}

void qh_http1_head_deinit(qh_http1_head *h)
{
    qh_str_deinit(&h->text);
    qh_free(h->split);
    qh_free(h->fields);
    *h = (qh_http1_head){0};
}

const char *qh_http1_head_get(const qh_http1_head *h, const char *name)
{
    for (int i = 0; i < h->n_fields; i++)
        if (is_name(h->fields[i].name, name)) return h->fields[i].value;
    return NULL;
}
