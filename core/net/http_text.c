/* http_text.c - see http_text.h */
#include "net/http_text.h"
#include <string.h>

const char *qh_http_reason(int http_status)
{
    static const struct {
        int status;
        const char *reason;
    } REASONS[] = {
        {100, "Continue"},          {200, "OK"},
        {201, "Created"},           {202, "Accepted"},
        {204, "No Content"},        {206, "Partial Content"},
        {301, "Moved Permanently"}, {302, "Found"},
        {303, "See Other"},         {304, "Not Modified"},
        {307, "Temporary Redirect"}, {308, "Permanent Redirect"},
        {400, "Bad Request"},       {401, "Unauthorized"},
        {402, "Payment Required"},  {403, "Forbidden"},
        {404, "Not Found"},         {405, "Method Not Allowed"},
        {406, "Not Acceptable"},    {408, "Request Timeout"},
        {409, "Conflict"},          {410, "Gone"},
        {411, "Length Required"},   {412, "Precondition Failed"},
        {413, "Content Too Large"}, {414, "URI Too Long"},
        {415, "Unsupported Media Type"}, {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"}, {422, "Unprocessable Content"},
        {425, "Too Early"},         {426, "Upgrade Required"},
        {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"}, {500, "Internal Server Error"},
        {501, "Not Implemented"},   {502, "Bad Gateway"},
        {503, "Service Unavailable"}, {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"}, {529, "Overloaded"},
    };
    for (size_t i = 0; i < sizeof REASONS / sizeof *REASONS; i++)
        if (REASONS[i].status == http_status) return REASONS[i].reason;
    return "";
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

qh_status qh_url_decode(qh_str *out, const char *s, size_t len_bytes, bool is_form)
{
    size_t start = out->len;
    for (size_t i = 0; i < len_bytes; i++) {
        if (s[i] == '+' && is_form) {
            qh_str_append_c(out, ' ');
        } else if (s[i] != '%') {
            qh_str_append_c(out, s[i]);
        } else {
            int hi = len_bytes - i > 2 ? hex_digit(s[i + 1]) : -1;
            int lo = len_bytes - i > 2 ? hex_digit(s[i + 2]) : -1;
            if (hi < 0 || lo < 0) {
                if (out->data) out->data[out->len = start] = 0;
                return QH_EFORMAT;
            }
            qh_str_append_c(out, (char)(hi << 4 | lo));
            i += 2;
        }
    }
    return QH_OK;
}

void qh_url_encode(qh_str *out, const char *s, size_t len_bytes)
{
    for (size_t i = 0; i < len_bytes; i++) {
        char c = s[i];
        bool is_unreserved = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                             c == '-' || c == '.' || c == '_' || c == '~';
        if (is_unreserved) qh_str_append_c(out, c);
        else qh_str_appendf(out, "%%%02X", (unsigned char)c);
    }
}
