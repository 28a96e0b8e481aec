---@meta qhost
--- The script API of qhost: the manual, and what editors read (LuaLS: add this folder to workspace.library).
---
--- An app file makes an app, adds routes to it and returns it:
---
---     local qh  = require "qhost"
---     local llm = qh.model "smollm2-135m"
---     local app = qh.app()
---     app:openai { models = { llm } }
---     app:post("/haiku", function(req, res)
---       return res:stream(llm:stream { system = "Answer only in haiku.", prompt = req:json().topic or "rain" })
---     end)
---     return app
---
--- **Waiting.** Calls marked (waits) suspend the request, never the server. They cannot be used while
--- the file loads, nor inside functions that C calls back, such as a comparison of table.sort.
---
--- **Loading** has no effect on the world: no model is asked, nothing is fetched. Save the file and the
--- server loads it again beside the running one; requests that run finish on the version they began
--- with, and a file that does not load changes nothing.
---
--- **Limits.** A request may use 100 ms of CPU between two waits and 64 MB. Beyond that it ends with a
--- 500 whose code is "script_timeout" or "script_memory"; pcall does not catch these ends. Others get their
--- turn after 2 ms at most; a function that cannot be left meanwhile (table.sort, JSON, what C calls back) may
--- take 25 ms. A client that leaves ends its request too; `local x <close>` variables are closed in every case.
---
--- **Gone** from Lua: io, debug, package, dofile, loadfile, string.dump, bytecode, __gc, global variables,
--- and of os all but time, clock, date and difftime. `require` finds modules in the app's folder and
--- those of qhost. print writes to the log.

---@class qhost
local qh = {}

-- The app --------------------------------------------------------------------------------------------

--- What a request may use: CPU between two waits (default 100 ms), its turn before others get theirs
--- (2 ms), bytes of memory (64 MiB). Whoever goes over ends in a 500, "script_timeout" or
--- "script_memory", that clients are told not to repeat.
---@alias qhost.Budget { cpu_ms?: integer, slice_ms?: integer, heap?: integer }
--- Which pages of other origins may call the app. The answers to their questions beforehand (OPTIONS) are
--- made without a key and without your handlers. headers: that requests may carry, default all; expose: that
--- scripts may read; max_age: seconds that an answer holds, default 600.
---@alias qhost.Cors { origins: "*"|string[], headers?: string[], expose?: string[], credentials?: boolean, max_age?: integer }

--- Make an app. The file returns it. budget: of its requests; a route may have another.
---@param opts? { budget?: qhost.Budget, cors?: qhost.Cors }
---@return qhost.App
function qh.app(opts) end

---@alias qhost.Handler fun(req: qhost.Request, res: qhost.Response): any
--- max_body: bytes of a body that req:text and req:json read; default 32 MiB. on_disconnect: when the
--- client leaves, "cancel" all that the request started (the default), or let the handler "finish".
---@alias qhost.RouteOptions { max_body?: integer, on_disconnect?: "cancel"|"finish", budget?: qhost.Budget }

---@class qhost.App
local App = {}

--- Add a route. In the path, ":name" stands for one segment and "*name" for the rest; both are in
--- req.params. The order of routes does not matter: a literal goes before a parameter, that before a
--- rest. The handler sends the reply through res.
---@param method string  "GET", ... or "*" for all
---@param path string  begins with "/"
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, method: string, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:route(method, path, opts, handler) end

--- A GET route; it answers HEAD too.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:get(path, opts, handler) end

--- A POST route.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:post(path, opts, handler) end

--- A PUT route.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:put(path, opts, handler) end

--- A DELETE route.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:delete(path, opts, handler) end

--- A PATCH route.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:patch(path, opts, handler) end

--- An OPTIONS route.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:options(path, opts, handler) end

--- A route for every method that has none of its own there.
---@param path string
---@param opts qhost.RouteOptions
---@param handler qhost.Handler
---@overload fun(self: qhost.App, path: string, handler: qhost.Handler): qhost.App
---@return qhost.App
function App:any(path, opts, handler) end

--- Add a middleware around every handler: it returns next(), or answers itself, or aborts. Later ones
--- run inside earlier ones; `before` or `after` places one beside another that is there already.
---
---     app:use("auth", function(req, next)
---       req.user = keys[req:bearer() or ""] or qh.abort(401, "invalid_api_key")
---       return next()
---     end)
---@param name string
---@param opts { before?: string, after?: string }
---@param fn fun(req: qhost.Request, next: fun(): any, res: qhost.Response): any
---@overload fun(self: qhost.App, name: string, fn: fun(req: qhost.Request, next: fun(): any, res: qhost.Response): any): qhost.App
---@return qhost.App
function App:use(name, opts, fn) end

--- Serve models in the OpenAI dialect: /v1/models, /v1/chat/completions, /v1/completions; and beside the
--- prefix /tokenize, /detokenize and /apply-template. `models` is a
--- list; an entry with a name may be a function that chooses: models = { small, auto = function(req) ... end }.
---@param opts { models: table<integer|string, qhost.Model|fun(req: qhost.Request): qhost.Model>, policies?: table<integer|string, qhost.Policy>, prefix?: string }
---@return qhost.App
function App:openai(opts) end

--- Routes for calls that wait for an approval: GET lists them as {approvals: [{id, agent, calls, user, created,
--- expires}]}, POST {id, approve, reason?} decides. The run goes on in the stream of its client, or with
--- agent:run { resume = id }; the reply's `resumes` says which: "now" or "later". A denial is what the model reads
--- as the result. Whoever may post there decides for everybody: put a middleware before it.
---@param path string
---@param opts? qhost.RouteOptions
---@return qhost.App
function App:approvals(path, opts) end

--- Run fn when the app begins to serve ("start": the first time; "reload": in place of an older version of itself), or
--- when the service ends ("stop"; after the last request, and all of them together may take 5 s). fn may wait.
---@param event "start"|"reload"|"stop"
---@param fn fun()
---@return qhost.App
function App:on(event, fn) end

--- Serve the routes of another app below a path: app:mount("/admin", admin). They run inside the middlewares of both.
---@param path string
---@param other qhost.App
---@return qhost.App
function App:mount(path, other) end

-- The request ----------------------------------------------------------------------------------------

---@class qhost.Request
---@field method string  "GET"
---@field path string  decoded, without the query
---@field params table<string, string>  what ":name" and "*name" of the route stood for
---@field query table<string, string>  decoded; of a repeated name the last
---@field headers table<string, string>  names in lower case; repeated ones joined by ", "
---@field id string  of this request: in the log and in the reply's X-Request-Id
---@field peer string  "127.0.0.1:50412"
---@field user any  for middlewares to set
---@field tags table<string, any>  set by req:tag
local Request = {}

--- The body as text (waits). One that is larger than allowed ends the request with a 413.
---@return string
function Request:text() end

--- The body as JSON (waits); anything else ends the request with a 400, and what cannot be decoded in 25 ms
--- of CPU (some megabytes of small values) with a 413. null is qh.json.null. With a schema the body comes checked,
--- its defaults filled in; one that does not fit ends the request with a 400 that names the place.
---@param schema? qhost.Schema
---@return any
function Request:json(schema) end

--- The token of "Authorization: Bearer TOKEN".
---@return string?
function Request:bearer() end

--- Call fn() when the client leaves before it has its reply: in a background task, since what belongs
--- to the request is cancelled then.
---@param fn fun()
function Request:on_abort(fn) end

--- Add key=value to the access-log line of this request.
---@param key string  a word of at most 40 characters
---@param value any
function Request:tag(key, value) end

-- The reply ------------------------------------------------------------------------------------------

---@class qhost.Response
local Response = {}

--- Set the status; default 200.
---@param code integer  200..599
---@return qhost.Response
function Response:status(code) end

--- Add a header.
---@param name string
---@param value string|number
---@return qhost.Response
function Response:header(name, value) end

--- Send a whole reply of that content type.
---@param content_type string
---@param body string
---@return qhost.Response
function Response:send(content_type, body) end

--- Send a value as JSON.
---@param value any
---@return qhost.Response
function Response:json(value) end

--- Send text.
---@param text string
---@return qhost.Response
function Response:text(text) end

--- Send a page.
---@param html string
---@return qhost.Response
function Response:html(html) end

--- Send a piece of a reply whose length is not known (waits while the client is slow).
---@param text string
---@return qhost.Response
function Response:write(text) end

--- Send a server-sent event (waits while the client is slow). A value that is no string becomes JSON.
---@param name string?  nil: an event without a name
---@param value any
---@return qhost.Response
function Response:event(name, value) end

--- Send a comment between events, to keep the connection alive.
---@return qhost.Response
function Response:ping() end

--- End a reply that was sent in pieces. The end of the handler does so too.
---@return qhost.Response
function Response:finish() end

--- Send what a model streams (waits). "auto", the default, goes by the Accept header: "openai" for
--- text/event-stream, "ndjson" for application/x-ndjson, else "text".
---@param source qhost.Stream|qhost.Run|fun(): qhost.Event?
---@param opts? { as?: "auto"|"text"|"ndjson"|"openai", usage?: boolean }  usage: with "openai", a chunk of it at the end
---@return qhost.Response
function Response:stream(source, opts) end

--- End the request with this status. Never returns.
---
---     qh.abort(429, "slow_down", { message = "come back later", retry_after = 5 })
---@param status integer  400..599
---@param code string  a stable word, such as "invalid_api_key"
---@param opts? { message?: string, type?: string, param?: string, retry_after?: number, headers?: table<string, string> }
function qh.abort(status, code, opts) end

-- Models ---------------------------------------------------------------------------------------------

--- The model of that name: one of `qhost list`, or given to `serve --model`. Only while the file loads; the
--- same name gives the same model.
---@param what string|{ name: string, template?: qhost.Template }
---@return qhost.Model
function qh.model(what) end

---@class qhost.Model
---@field name string
---@field ctx integer  tokens of the longest sequence
---@field meta { name: string, arch: string, n_ctx: integer, n_vocab: integer, chat_template?: string, bos?: string, eos?: string, path?: string }
local Model = {}

---@class qhost.Options  what a request may ask of the sampler and the engine
---@field sampler? qhost.Sampler
---@field temperature? number  0: greedy; default 1
---@field top_k? integer  0: off
---@field top_p? number  1: off
---@field min_p? number  0: off
---@field typical_p? number  1: off
---@field xtc_probability? number  0: off
---@field xtc_threshold? number
---@field repeat_penalty? number  1: off
---@field presence_penalty? number  -2..2
---@field frequency_penalty? number  -2..2
---@field penalty_window? integer  last tokens that penalties look at; -1: all
---@field dry_multiplier? number  0: off
---@field dry_base? number
---@field dry_allowed_length? integer
---@field dry_window? integer
---@field dry_breakers? string[]
---@field logit_bias? table<integer, number>  by token id; -math.huge bans
---@field seed? integer  the same seed, prompt and options give the same text
---@field n? integer  answers to one prompt
---@field max_tokens? integer  default: up to the context
---@field min_tokens? integer
---@field ignore_eos? boolean
---@field stop? string|string[]  text that ends the answer and is left out of it
---@field keep_stop? boolean
---@field stop_ids? integer[]
---@field logprobs? boolean  tokens with their log-probabilities
---@field top_logprobs? integer  and that many alternatives, up to 20
---@field prompt_logprobs? boolean  of the prompt's tokens too
---@field tokens? boolean  the tokens of the answer, without log-probabilities
---@field priority? integer  larger is sooner
---@field timeout? number  seconds
---@field cache_salt? string  prompts share cached work only among equal salts
---@field policy? qhost.Policy  chooses the tokens
---@field on? qhost.On  looks at the answer while it is written, and may end it

---@class qhost.Message
---@field role "system"|"user"|"assistant"|"tool"|"developer"
---@field content string|table[]|nil  text, or a list of text parts
---@field tool_calls? table[]  of the assistant: as in a result, or as the OpenAI API has them
---@field tool_call_id? string  of a tool's answer

---@class qhost.ChatOptions: qhost.Options
---@field messages? qhost.Message[]
---@field system? string  with prompt, in place of messages
---@field prompt? string
---@field tools? table[]  each { name, description, parameters }, or as the OpenAI API has it, or an object whose `spec` is
---                          such a table or a method that returns one; the template shows them to the model
---@field parallel_tool_calls? boolean  false: of several calls only the first counts
---@field template_vars? table  further variables of the template
---@field add_generation_prompt? boolean  false: the template does not open the model's turn
---@field raw? boolean  continue prompt as it is, without a template
---@field ids? integer[]  with raw: a prompt of token ids

---@class qhost.Token
---@field id integer
---@field bytes string
---@field logprob? number
---@field text_end? integer  of an answer's token: bytes of the answer's text that are certain with it
---@field top? qhost.Token[]

---@class qhost.ToolCall
---@field id string
---@field name string
---@field arguments? table  decoded
---@field raw string  their JSON, as the model wrote it

---@class qhost.Result
---@field text string
---@field reasoning? string  what the model thought first, where its format marks that
---@field tool_calls qhost.ToolCall[]  maybe none; read only when tools were given
---@field unparsed? boolean  something in the text looked like a call and could not be read as one
---@field message? string  of a policy that failed
---@field finish "stop"|"length"|"tool_calls"|"canceled"
---@field stop_match? string  the stop text that was met
---@field usage { prompt: integer, cached: integer, completion: integer }  in tokens
---@field timings { queue: number, prefill: number, ttft: number, decode: number }  in seconds
---@field tokens? qhost.Token[]  with logprobs
---@field prompt_tokens? qhost.Token[]  with prompt_logprobs
---@field choices? qhost.Result[]  with n > 1: all of them

--- Continue raw text, without a template (waits). On failure nil, a message and a word: "EINVAL", "ECONTEXT",
--- "AGAIN" when the queue is full, ...
---@param o { prompt: string }|qhost.ChatOptions
---@return qhost.Result? result
---@return string? message
---@return string? status
function Model:generate(o) end

--- Answer a conversation (waits).
---@param o qhost.ChatOptions
---@return qhost.Result? result
---@return string? message
---@return string? status
function Model:chat(o) end

--- Answer a conversation piece by piece: for ev in model:stream{...} do (waits in each step). A failure ends
--- the request with a fitting status.
---@param o qhost.ChatOptions
---@return qhost.Stream
function Model:stream(o) end

---@class qhost.Event
---@field type "text"|"reasoning"|"tool_call"|"prompt"|"usage"|"done"
---@field choice integer  1..n
---@field text? string  types "text" and "reasoning"
---@field index? integer  type "tool_call": which call, from 1
---@field id? string  type "tool_call": with the name in the first event of a call; further ones add to its arguments
---@field name? string
---@field arguments? string  type "tool_call": JSON text
---@field tool_calls? qhost.ToolCall[]  type "done": all of them, decoded, when there are any
---@field unparsed? boolean  type "done"
---@field tokens? qhost.Token[]
---@field usage? table  type "usage": as in a result, with timings
---@field timings? table
---@field finish? string  type "done"

---@class qhost.Stream
---@field model qhost.Model
---@overload fun(): qhost.Event?
local Stream = {}

--- The same weights under other settings. `as`: its name; `defaults`: options that a request may change.
---
---     app:openai { models = { llm, llm:with { as = "careful", defaults = { temperature = 0.2, max_tokens = 500 } } } }
---@param o { as?: string, sampler?: qhost.Sampler, template?: qhost.Template, defaults?: qhost.Options }
---@return qhost.Model
function Model:with(o) end

--- How what the model writes is read back: one of the formats of qhost, or what the template's `parse` says.
---@return table
function Model:format() end

--- Token ids of a text (waits for a long one). Special tokens in it stay text.
---@param text string
---@return integer[]
function Model:tokens(text) end

--- The template in use. nil and why, when the model has none.
---@return qhost.Template?
---@return string? message
function Model:template() end

--- The token ids that the engine would be given (waits). nil and why, when the template does not take it.
---@param o qhost.ChatOptions
---@return integer[]?
---@return string? message
function Model:prompt(o) end

--- How many tokens those are (waits).
---@param o qhost.ChatOptions
---@return integer?
---@return string? message
function Model:count(o) end

--- Messages as the model will read them. `special` marks what the template wrote: only there can special
--- tokens be.
---@param o qhost.ChatOptions
---@return { text: string, special: boolean }[]?
---@return string? message
function Model:render(o) end

--- Hand a request to the engine and read its events yourself: answer:next(seconds?) (waits) gives the next
--- one, nil at the end, false when none came in time; answer:collect() (waits) gives the results of all
--- choices; answer:cancel() gives up.
---@param o qhost.ChatOptions
---@return table? answer
---@return string? message
---@return string? status
function Model:submit(o) end

-- Sampling -------------------------------------------------------------------------------------------

---@class qhost.Sampler
local Sampler = {}

--- Steps of sampling, checked once and run without Lua. They run in this order, and are listed so:
---
---     qh.sampler { {"penalties", repetition = 1.1, presence = 0, frequency = 0, window = 64},
---                  {"dry", multiplier = 0.8, base = 1.75, allowed_length = 2, window = -1},
---                  {"top_k", 40}, {"typical", 0.9}, {"top_p", 0.95}, {"min_p", 0.05},
---                  {"xtc", probability = 0.5, threshold = 0.1}, {"temp", 0.7} }
---@param steps table[]
---@return qhost.Sampler
function qh.sampler(steps) end

--- Functions that are called while an answer is written. Each may wait, and returns nil, or "stop" to end the
--- answer there: what follows is not shown and not counted. When they are called depends on the text alone, not on
--- the pieces in which it comes.
---
---     llm:chat { prompt = "...", on = {
---       text = { ["%d%d%d%-%d%d%d%d"] = function(match, at) return "stop" end },   -- at: choice, from, to, captures
---       every = { 50, function(n, at) return too_long() and "stop" or nil end },   -- each 50 tokens
---       token = function(tok, at) end } }                                          -- at: choice, n
---
--- A key of `text` is a pattern of Lua (without ^, $ and %f). It has matched as soon as the text so far ends in a
--- match of it, so "%d+" is called for each digit; what it matches may have 256 bytes.
---@class qhost.On
---@field text? table<string, fun(match: string, at: { choice: integer, from: integer, to: integer, captures: any[] }): "stop"?>
---@field every? { [1]: integer, [2]: fun(n: integer, at: { choice: integer, n: integer }): "stop"? }
---@field token? fun(tok: qhost.Token, at: { choice: integer, n: integer }): "stop"?

--- Raises: text cannot be taken back. Here so that a script that asks for it is told so.
---@param back integer
---@param text string
function qh.splice(back, text) end

---@class qhost.Policy  what qh.policy gives: an option of a request; called with parameters, the same with those
---@field name string
---@overload fun(params: table): qhost.Policy

--- A sampling policy: a module that chooses among the best tokens, with Lua for each token but beside the engine,
--- on a thread of its own. A late one makes its own answer wait and nobody else's. The module is one file of the
--- app's folder ("policies.tired" or "policies/tired.lua") or one that ships: "qhost.policies.cautious", "schedule",
--- "repetition", "mirostat", "entropy". Only while the file loads (waits).
---
---     local cautious = qh.policy "qhost.policies.cautious"
---     llm:chat { prompt = "...", policy = cautious { min_lead = 0.5 } }
---
--- The module returns a table with these fields; at least one of logits and accept:
---
---     name, top, budget_us      a word; how many candidates it wants, 1..256, default 64; CPU of a call in us, default 50
---     check(p)                  raises when the parameters are wrong: the request is refused with a 400
---     init(seq, p)              -> st, plain data. seq: n_prompt, max_tokens, n_vocab, eos
---     logits(cand, st, row)     edits the candidates of a token (qhost.Candidates); st is read-only here
---     accept(st, tok, row)      a token is in: change st, or return "stop" with a reason, a word that becomes the
---                               answer's `finish`. row.prob: the chance that it had among the candidates
---
--- row: n_out (tokens of the answer so far, in accept with this one), position, and what seq has.
--- The order is: logit_bias, penalties, DRY, the `top` best tokens, the request's top_k, top_p, min_p, typical_p and
--- XTC, then logits, then temperature and draw. So a policy that does nothing gives what top_k = top gives, and every
--- other option (stop, seed, n, logprobs, min_tokens, ...) means what it means without a policy.
---
--- The module is run once for each answer, in a VM of its own with 1 MB, and sees math without random (cand:coin()
--- is there instead), table and string without what may run away (no patterns, rep, move), utf8, assert, error,
--- ipairs, pairs, next, select, tonumber, tostring, type. It cannot wait, read, require or catch errors. One that
--- fails ends its answer with finish = "policy_error", one that takes longer than its budget on average with
--- "policy_timeout"; `message` of the result says why. An answer stays with the version of the file it began with.
---@param module string
---@return qhost.Policy
function qh.policy(module) end

--- The candidates of one token, in logits. #cand; they count from 1, the likeliest first. Probabilities are those of
--- what is left, at temperature 1. What returns qhost.Candidates can be chained.
---@class qhost.Candidates
---@field prob fun(self: qhost.Candidates, i: integer): number  0 when there are fewer
---@field id fun(self: qhost.Candidates, i: integer): integer?
---@field logit fun(self: qhost.Candidates, i: integer): number?
---@field text fun(self: qhost.Candidates, i: integer): string?  the bytes of its piece
---@field entropy fun(self: qhost.Candidates): number  in nats
---@field coin fun(self: qhost.Candidates): number  a number in (0,1) that depends on seed, choice and position only
---@field ban fun(self: qhost.Candidates, id: integer): qhost.Candidates
---@field keep fun(self: qhost.Candidates, ids: integer[]): qhost.Candidates  all others go
---@field top_k fun(self: qhost.Candidates, k: integer): qhost.Candidates
---@field top_p fun(self: qhost.Candidates, p: number): qhost.Candidates
---@field min_p fun(self: qhost.Candidates, p: number): qhost.Candidates
---@field bias fun(self: qhost.Candidates, id: integer, x: number): qhost.Candidates  adds x to its logit
---@field scale fun(self: qhost.Candidates, x: number): qhost.Candidates  logits times x
---@field temperature fun(self: qhost.Candidates, t?: number): qhost.Candidates|number  of the draw; without t: what it is

-- Templates ------------------------------------------------------------------------------------------

---@class qhost.Template
local Template = {}

--- A template in Lua. render(out, conv) writes the prompt; conv has messages, tools, add_generation_prompt,
--- bos_token, eos_token. `stop`: strings that end the model's turn. `parse`: how its answers are read: the
--- name of a format (hermes, qwen3_coder, llama3, mistral, deepseek, generic, plain); a list of marks, such as
--- { open = "<think>", kind = "reasoning", close = "</think>" } or { open = "<call>", kind = "call", body = "json",
--- close = "</call>" }; or a function(opts) that returns an object with feed(self, text) and finish(self), which
--- give lists of events { type = "text"|"reasoning", text } and { type = "tool_call", name, arguments }. Without
--- it, as the model's own template shows.
---
---     qh.template { name = "plain", stop = { "\nUser:" }, render = function(out, conv)
---       for _, m in ipairs(conv.messages) do out:text(m.role .. ": " .. m.content .. "\n") end
---       out:text "assistant:"
---     end }
---@param def { name?: string, render: fun(out: qhost.Out, conv: table), stop?: string[], parse?: string|table[]|function }
---@return qhost.Template
function qh.template(def) end

--- A template in Jinja, sandboxed, as models carry them.
---@param source string
---@return qhost.Template?
---@return string? message
function qh.template.jinja(source) end

--- Render a conversation: { messages, tools?, add_generation_prompt?, further variables }.
---@param conv table
---@return { text: string, special: boolean }[]?
---@return string? message
function Template:render(conv) end

---@class qhost.Out  what a template in Lua writes to
local Out = {}

--- Text that may hold special tokens, such as "<|im_start|>".
---@param text string
---@return qhost.Out
function Out:special(text) end

--- Text that never becomes a special token.
---@param text string
---@return qhost.Out
function Out:text(text) end

--- A value as JSON, its keys sorted.
---@param value any
---@return qhost.Out
function Out:json(value) end

-- Schemas --------------------------------------------------------------------------------------------

--- What a value must look like: said once, checked where it comes in, and shown to models as JSON Schema.
---
---     local t = qh.schema
---     local order = t.object {
---       { "item", t.string { "What to buy", min = 1 } },
---       { "count", t.int { min = 1, max = 99, default = 1 } },
---       { "note", t.string(), optional = true },
---     }
---     app:post("/order", function(req, res) res:json(req:json(order)) end)
---
--- Every schema takes a description and a default: t.int("How many"), t.int { "How many", default = 1 }.
---@class qhost.Schema
qh.schema = {}

--- A text. min and max count characters; pattern is a regular expression that must match somewhere in it; format is
--- one of date, time, date-time, email, uri, uuid.
---@param opts? string|{ [1]?: string, description?: string, min?: integer, max?: integer, pattern?: string, format?: string, default?: string }
---@return qhost.Schema
function qh.schema.string(opts) end

--- A whole number; 3.0 becomes 3.
---@param opts? string|{ [1]?: string, description?: string, min?: integer, max?: integer, default?: integer }
---@return qhost.Schema
function qh.schema.int(opts) end

--- A number.
---@param opts? string|{ [1]?: string, description?: string, min?: number, max?: number, default?: number }
---@return qhost.Schema
function qh.schema.number(opts) end

--- true or false.
---@param opts? string|{ [1]?: string, description?: string, default?: boolean }
---@return qhost.Schema
function qh.schema.boolean(opts) end

--- One of these texts, numbers or booleans: t.enum { "c", "f", default = "c" }.
---@param list table
---@return qhost.Schema
function qh.schema.enum(list) end

--- A list whose items are all like `item`.
---@param item qhost.Schema
---@param opts? string|{ [1]?: string, description?: string, min?: integer, max?: integer, default?: table }
---@return qhost.Schema
function qh.schema.list(item, opts) end

--- An object: a list of { "key", schema, default = , optional = }, in the order that models will see. A key with a
--- default or optional = true may be absent or null. Keys that are not listed are kept; with extra = "refuse" they are
--- an error, with "drop" they are left out, with a schema they are checked.
---@param fields table
---@return qhost.Schema
function qh.schema.object(fields) end

--- An object with any keys, whose values are all like `value`.
---@param value qhost.Schema
---@param opts? string|{ [1]?: string, description?: string, default?: table }
---@return qhost.Schema
function qh.schema.map(value, opts) end

--- A value that fits one of these: t.union { t.string(), t.int() }. The first that fits is taken.
---@param list table
---@return qhost.Schema
function qh.schema.union(list) end

--- A value that may be absent or null.
---@param inner qhost.Schema
---@return qhost.Schema
function qh.schema.optional(inner) end

--- Any value.
---@param opts? string|{ [1]?: string, description?: string, default?: any }
---@return qhost.Schema
function qh.schema.any(opts) end

--- A conversation as the OpenAI chat API has it: at least one message; content is text or a list of parts.
---@param opts? string|{ [1]?: string, description?: string, max?: integer }
---@return qhost.Schema
function qh.schema.messages(opts) end

--- A JSON Schema (2020-12) as a table. References out of it, $dynamicRef and unevaluated* are refused; `format` is
--- a note. The `default` of a missing property is filled in.
---@param schema table|boolean
---@return qhost.Schema
function qh.schema.json(schema) end

---@class qhost.Mismatch
---@field path string  "messages[0].role"; lists count from 0; "" is the value itself
---@field code "missing"|"type"|"value"|"unknown"
---@field message string  "expected a string, got a number"

--- Check a value: it comes back with its defaults, as a copy when something had to be added. On failure nil and the
--- first place that does not fit. As nil may be a fitting value, look at the second result.
---@param schema qhost.Schema
---@param value any
---@return any value
---@return qhost.Mismatch? mismatch
function qh.schema.check(schema, value) end

--- The JSON Schema of a schema, its keys in a fixed order: equal schemas give equal text.
---@param schema qhost.Schema
---@param default? any  in place of its own
---@return table
function qh.schema.json_schema(schema, default) end

--- A schema as it is; a table is taken for a JSON Schema. nil and a message when it is neither.
---@param v any
---@return qhost.Schema? schema
---@return string? message
function qh.schema.of(v) end

--- Whether a value is a schema.
---@param v any
---@return boolean
function qh.schema.is(v) end

-- Tools and agents -----------------------------------------------------------------------------------

---@class qhost.ToolContext  what a tool knows of its call
---@field user any  as given to agent:run; "anonymous" without
---@field request? qhost.Request  as given to agent:run
---@field id string  of the call
local ToolContext = {}

--- End the call: the model reads the message, and may do better. Never returns.
---@param message string
function ToolContext:fail(message) end

---@class qhost.ToolDef
---@field name string  letters, digits, "_" and "-"
---@field description? string  for the model: what it does, when to use it
---@field input? qhost.Schema  of the arguments, an object; none without it
---@field output? qhost.Schema  of the result
---@field run fun(args: table, ctx: qhost.ToolContext): any, string?  may wait
---@field timeout? number  seconds; 30
---@field approve? "auto"|"ask"|fun(args: table, ctx: qhost.ToolContext): boolean|"ask"|nil, string?  "ask": somebody decides, see app:approvals; a function says whether a call may run, or "ask", or no and why
---@field pure? boolean  the same arguments give the same result: asked once in a run
---@field max_result? integer  bytes of the result that the model reads; 16384

---@class qhost.Tool
---@field name string
---@field spec table  as the OpenAI API has it; so a tool can be given to model:chat too
local Tool = {}

--- A function that models may call. `run` gets arguments that fit `input`, with its defaults, and returns a text
--- or a value that becomes JSON, keys sorted; or nil and a message. Whatever goes wrong is a text that the model
--- reads, never an error of the request: arguments that do not fit, time that is over, an error in `run` (in the
--- log with its traceback; the model is told no more than that it failed, but with --dev). Only CPU and memory are
--- the request's own, tools included.
---
---     local weather = qh.tool { name = "weather", description = "Current weather for a city", timeout = 5,
---       input = qh.schema.object { { "city", qh.schema.string "City name" } },
---       run = function(args, ctx)
---         if not known[args.city] then ctx:fail("no such city") end
---         return { temp = known[args.city] }
---       end }
---@param def qhost.ToolDef
---@return qhost.Tool
function qh.tool(def) end

---@class qhost.StepInfo
---@field step integer
---@field text string
---@field calls { id: string, name: string, raw: string, outcome: { text: string, is_error?: boolean } }[]
---@field messages qhost.Message[]
---@field usage table  of this step
---@field total table  of all
---@field user any

---@class qhost.AgentDef
---@field model qhost.Model
---@field name? string  by which a run that waits for an approval finds its agent after a reload
---@field tools? qhost.Tool[]
---@field system? string
---@field max_steps? integer  turns of the model; 8
---@field max_calls? integer  calls of tools; 32
---@field max_tokens? integer  written by the model in all steps together
---@field timeout? number  seconds of a run
---@field when_stuck? string|false  what the model is told, as by the user, when it makes the same calls again and gets the same results; default: to answer
---@field approval_timeout? number  seconds until a call that nobody decided on counts as denied; 3600
---@field on_step? fun(step: qhost.StepInfo): "stop"?, string?  after each step; "stop" ends the run, with a reason

---@class qhost.Agent
---@field name string
---@field model qhost.Model
local Agent = {}

--- A model that calls tools until it has an answer. The calls of a turn run side by side, eight at a time. What
--- the model has read or written in one step is not computed again in the next. How it samples: model:with.
---@param def qhost.AgentDef
---@return qhost.Agent
function qh.agent(def) end

--- Start a run: for ev in run do, res:stream(run, ...) or run:result() (waits). It works while somebody reads.
---
---     local run <close> = agent:run { messages = req:json().messages, user = req.user }
---     return res:stream(run, { as = "openai" })
---
--- A run with a call that needs an approval gives the event "approval" with its id and waits, while its client does;
--- with wait = false it ends there, with the finish "approval". `resume = id` goes on with it: once, in any later
--- request, also after a reload or a restart, with the newest script. For that `user` must be plain data.
---@param o { messages?: qhost.Message[], prompt?: string, user?: any, request?: qhost.Request, resume?: string, wait?: boolean }
---@return qhost.Run
function Agent:run(o) end

---@class qhost.RunEvent
---@field type "text"|"reasoning"|"tool_call"|"tool_result"|"approval"|"ping"|"step"|"usage"|"done"
---@field text? string  text, reasoning; of a tool_result what the model reads
---@field id? string  tool_call, tool_result; approval: what app:approvals and resume take
---@field calls? { id: string, name: string, arguments: string }[]  approval
---@field expires? number  approval: seconds since 1970
---@field name? string  tool_call, tool_result
---@field arguments? string  tool_call: JSON text
---@field index? integer  tool_call: counted through the run
---@field is_error? boolean  tool_result
---@field seconds? number  tool_result
---@field step? integer  step
---@field usage? { prompt: integer, cached: integer, completion: integer }  step: its own; usage: of all steps
---@field finish? string  step; done: "stop", "length", "max_steps", "max_calls", "max_tokens", "timeout", "context_length", "approval", "resumed" (by another request), or what on_step said

---@class qhost.Run
---@field model qhost.Model
---@overload fun(): qhost.RunEvent?
local Run = {}

--- Read the run to its end (waits).
---@return { text: string, reasoning?: string, finish: string, steps: integer, calls: integer, usage: table, messages: qhost.Message[], approval?: table }
function Run:result() end

--- Give up what it does. `local run <close>` does so too.
function Run:close() end

-- JSON -----------------------------------------------------------------------------------------------

qh.json = {}

--- JSON null; a value of its own, as nil cannot be in a table.
qh.json.null = nil

--- The value of a JSON text. Objects remember the order of their keys, and empty lists that they are lists.
---@param text string
---@return any value
---@return string? message  names line and column
---@return string? status
function qh.json.decode(text) end

--- The JSON text of a value. Keys come in the order in which they were read, others sorted; a table with
--- [1] is a list, an empty one an object unless qh.json.array made it. Raises for what JSON cannot say.
---@param value any
---@param opts? { sort?: boolean }  sort: all keys sorted
---@return string
function qh.json.encode(value, opts) end

--- Mark a table as a list, so that it stays one when it is empty.
---@param t? table
---@return table
function qh.json.array(t) end

--- Mark a table as an object, with the order of its keys.
---@param t? table
---@param keys? string[]
---@return table
function qh.json.object(t, keys) end

-- Work side by side ----------------------------------------------------------------------------------
--
-- Whatever a handler starts belongs to the task that starts it: a request, or a child of one. When that
-- task returns, fails or loses its client, its children are cancelled: what they wait for ends with a
-- "cancelled" error that no pcall holds up, their <close> variables run, and then it is over. A child
-- that fails cancels the others. Their CPU between two waits, their heap and their number (10,000) count
-- for the request. What a child leaves open when it returns, a stream for example, goes to its parent.

---@class qhost.Task
local Task = {}

--- Start fn(...) beside the caller. It ends with the caller's task at the latest. An error that no wait
--- hears is raised where the caller waits next. `local t <close> = qh.spawn(...)` ends it with the block.
---@param fn function
---@return qhost.Task
function qh.spawn(fn, ...) end

--- What the function returns; its error is raised here. After cancel: nil, message, "ECANCELED" (waits).
---@return any ...
function Task:wait() end

--- Cancel it. Its wait, if anybody has one, ends.
function Task:cancel() end

--- { fn(item, i) for every item }, in order, some of them at a time. The first error ends all (waits).
---@param list any[]
---@param fn fun(item: any, i: integer): any
---@param opts? {limit?: integer}  how many run at a time; 32
---@return any[]
function qh.map(list, fn, opts) end

--- Like qh.map, where fn returns a list each time: all of them joined, in order (waits).
---@param list any[]
---@param fn fun(item: any, i: integer): any[]
---@param opts? {limit?: integer}
---@return any[]
function qh.flatmap(list, fn, opts) end

--- Run all functions of a table at the same time: what each returned, under the same keys (waits).
---@param fns table<any, function>
---@return table<any, any>
function qh.all(fns) end

--- Run functions at the same time: what the first one to end returns, or its error; the others are
--- cancelled (waits).
---@param fns function[]
---@return any ...
function qh.race(fns) end

--- What fn(...) returns. When it takes longer it is cancelled: nil, message, "ETIMEDOUT" (waits).
---@param seconds number
---@param fn function
---@return any ...
function qh.timeout(seconds, fn, ...) end

--- Run fn once beside all requests: when this generation of the app begins to serve, or at once from a
--- request, which it outlives. When a reload replaces the generation, what its load started is cancelled;
--- what a request started has 10 seconds more. An error is logged.
---@param name string  false comes back when one of that name is at work
---@param fn fun()
---@return boolean started
function qh.background(name, fn) end

--- Run fn every so many seconds while this generation serves; only while an app loads. A run that fails
--- is logged, the next one begins a period after its end.
---@param seconds number
---@param fn fun()
---@param opts? {name?: string}
function qh.every(seconds, fn, opts) end

---@class qhost.Channel  a bounded queue between tasks; `for v in channel do` receives until it is closed
local Channel = {}

--- A channel that holds so many values (1).
---@param size? integer
---@return qhost.Channel
function qh.channel(size) end

--- Put a value in, not nil; while the channel is full, wait (waits).
---@param value any
---@return boolean? ok
---@return string? message  it is closed
---@return string? status  "ECLOSED"
function Channel:send(value) end

--- Take the oldest value; while there is none, wait. nil: closed and empty (waits).
---@return any
function Channel:recv() end

--- No more values; those inside can still be received.
function Channel:close() end

--- How many values are inside.
---@return integer
function Channel:len() end

---@class qhost.Topic  what one publishes, all who listen hear, those of other generations too
local Topic = {}

--- The topic of that name.
---@param name string
---@return qhost.Topic
function qh.topic(name) end

--- Tell all who listen now. Plain data, at most 1 MiB; nobody is waited for.
---@param value any
---@return integer listeners
function Topic:publish(value) end

--- Listen from now on: for value in topic:subscribe() do. It ends with the task. Whoever is too slow loses
--- the oldest of `size` (64) messages that wait, 8 MiB at most.
---@param size? integer
---@return qhost.Subscription
function Topic:subscribe(size) end

---@class qhost.Subscription
local Subscription = {}

--- The oldest message that waits; while there is none, wait. nil: closed (waits).
---@return any
function Subscription:recv() end

--- How many messages were lost so far.
---@return integer
function Subscription:lost() end

--- Listen no more.
function Subscription:close() end

-- Data in memory -------------------------------------------------------------------------------------

---@class qhost.Shared  values that all requests and all generations share, until the server ends
local Shared = {}

--- The shared table of that name. Values are plain data: texts, numbers, booleans, and tables, which
--- come back as copies. When it is full (max_bytes of the first call; 16 MiB), what was used least
--- recently goes; what could never fit is an error.
---@param name string
---@param opts? {max_bytes?: integer}
---@return qhost.Shared
function qh.shared(name, opts) end

--- The value of a key, or nil.
---@param key string
function Shared:get(key) end

--- Set a value, for so many seconds if a ttl is given; nil takes it out.
---@param key string
---@param value any
---@param ttl? number
function Shared:set(key, value, ttl) end

--- Set a value unless there is one; false: there is.
---@param key string
---@param value any
---@param ttl? number
---@return boolean
function Shared:add(key, value, ttl) end

--- Add to a number (missing: 0), and get the sum. The ttl counts from the first time.
---@param key string
---@param by? number  1
---@param ttl? number
---@return number
function Shared:incr(key, by, ttl) end

--- Replace a value if it equals old; nil stands for "none" in both. True: it did.
---@param key string
---@param old any
---@param new any
---@param ttl? number
---@return boolean
function Shared:cas(key, old, new, ttl) end

--- Replace a value by fn(value), and get it. Nothing comes in between, so fn cannot wait.
---@param key string
---@param fn fun(value: any): any
---@param ttl? number
function Shared:update(key, fn, ttl) end

--- Take cost tokens out of a bucket into which `rate` flow every `per` seconds (1), and which holds
--- `burst` (rate): whether they were there, and how many seconds until they are. A cost over the burst
--- is paid back by a longer wait of those who follow.
---
---     local ok, wait = qh.shared("limits"):take(req.user.id, 1, { rate = 60, per = 60 })
---     if not ok then qh.abort(429, "rate_limit_exceeded", { retry_after = wait }) end
---@param key string
---@param cost number
---@param bucket {rate: number, per?: number, burst?: number}
---@return boolean ok
---@return number wait
function Shared:take(key, cost, bucket) end

--- Put tokens back that were taken too many, or with a negative number take more, even below zero.
---@param key string
---@param tokens number
function Shared:settle(key, tokens) end

--- The keys that begin with prefix, used most recently first, at most limit (1000).
---@param prefix? string
---@param limit? integer
---@return string[]
function Shared:keys(prefix, limit) end

--- Take a value out; false: there was none.
---@param key string
---@return boolean
function Shared:del(key) end

---@class qhost.Persist  one value that survives reloads
local Persist = {}

--- A value of this app that survives reloads, until the server ends. init is the first value, or a
--- function that makes it from that of the version before and its number. A generation with another
--- version has a value of its own, so the old one is not disturbed.
---@param key string
---@param init any
---@param opts? {version?: integer}  1
---@return qhost.Persist
function qh.persist(key, init, opts) end

--- The value; a table is a copy.
function Persist:get() end

--- Replace the value.
---@param value any
function Persist:set(value) end

--- Replace the value by fn(value), and get it. Nothing comes in between, so fn cannot wait.
---@param fn fun(value: any): any
function Persist:update(fn) end

qh.metrics = {}

--- Add to a counter, which is on /metrics as qhost_app_NAME. Of all apps' metrics 1,000 series, by name and
--- labels, are kept; further ones come back false and are counted as dropped.
---@param name string  small letters, digits and "_"
---@param n? number  1
---@param labels? table<string, string|number>
---@return boolean kept
function qh.metrics.count(name, n, labels) end

--- Set a gauge, to the nearest whole number.
---@param name string
---@param value number
---@param labels? table<string, string|number>
---@return boolean kept
function qh.metrics.gauge(name, value, labels) end

--- Note a value, such as seconds, in a histogram with bounds from 1 ms to a minute.
---@param name string
---@param value number
---@param labels? table<string, string|number>
---@return boolean kept
function qh.metrics.observe(name, value, labels) end

--- A number in [0, 1), always the same for an id and a salt: for shares of users.
---@param id string|number
---@param salt? string  another salt, another independent share
---@return number
function qh.bucket(id, salt) end

-- Other servers --------------------------------------------------------------------------------------

---@class qhost.Reply  of another server
---@field status integer
---@field headers table<string, string>  names in lower case; repeated ones joined by ", "
---@field url string  where it came from, after redirects
local Reply = {}

---@class qhost.FetchOptions
---@field method? string  default GET, or POST with a body
---@field headers? table<string, string|number>
---@field body? string
---@field json? any  the body, as JSON
---@field timeout? number  seconds for all of it; default 60, none with stream
---@field connect_timeout? number  default 10
---@field stream? boolean  come back with the head; the body follows in pieces
---@field max_bytes? integer  of the body; default 16 MiB
---@field redirects? integer  that are followed; default 5

--- Ask another HTTP server. Loopback can always be reached, other hosts with `--allow-net HOST`, also
--- after a redirect. Any HTTP status is a reply. No reply, a refused host and a reply over its limit raise
--- an error {status, code, message}; uncaught it answers 502, 504 (too late) or 500 (refused), without
--- saying where. The reply's bytes count for the request's memory (waits).
---@param url string
---@param opts? qhost.FetchOptions
---@return qhost.Reply
function qh.fetch(url, opts) end

--- The body (waits when it is streamed).
---@return string
function Reply:text() end

--- The body as JSON; an error when it is none (waits when it is streamed).
---@return any
function Reply:json() end

--- The body in pieces: for piece in reply:chunks() do. Its sender waits while nobody reads (waits).
---@return fun(): string?
function Reply:chunks() end

--- Stop receiving. `local r <close> = qh.fetch(...)` does it at the end of the block.
function Reply:close() end

---@class qhost.Upstream  a model that another server runs
---@field name string
local Upstream = {}

--- A model behind a server with the OpenAI chat API, for chat, stream, app:openai and qh.fallback. The
--- host must be allowed, as for qh.fetch. timeout: seconds for all of an answer. What it cannot be asked
--- (a policy, raw text, log probabilities) is refused. Its failures are those of a model: 429 when it is busy, 502,
--- 504 when it is late.
---@param def {kind?: "openai", url: string, key?: string, model: string, name?: string, headers?: table<string, string>, timeout?: number}
---@return qhost.Upstream
function qh.upstream(def) end

--- Answer a conversation, as model:chat does (waits).
---@param o qhost.ChatOptions
---@return qhost.Result? result
---@return string? message
---@return string? status
function Upstream:chat(o) end

--- Answer a conversation piece by piece, as model:stream does (waits).
---@param o qhost.ChatOptions
---@return qhost.Stream
function Upstream:stream(o) end

--- Refused: its tokens are not known here.
---@param text string
function Upstream:tokens(text) end

--- What model:submit gives, for the dialects (waits).
---@param o qhost.ChatOptions
function Upstream:submit(o) end

---@class qhost.Fallback  models that are asked in turn
---@field name string
local Fallback = {}

--- A model that asks each of a list until one begins to answer; from its first token on there is no way
--- back. on: after what the next one is asked, of "busy", "timeout" and "error", all by default; what is
--- wrong with the request itself comes back at once. ttft: seconds that each has for its first token.
---
---     qh.fallback { small, cloud, on = { "busy", "timeout" }, ttft = 4 }
---@param def {on?: string[], ttft?: number, name?: string, [integer]: qhost.Model|qhost.Upstream|qhost.Fallback}
---@return qhost.Fallback
function qh.fallback(def) end

--- Answer a conversation, as model:chat does (waits).
---@param o qhost.ChatOptions
---@return qhost.Result? result
---@return string? message
---@return string? status
function Fallback:chat(o) end

--- Answer a conversation piece by piece, as model:stream does (waits).
---@param o qhost.ChatOptions
---@return qhost.Stream
function Fallback:stream(o) end

--- Token ids of a text, as the first of its models has them.
---@param text string
---@return integer[]
function Fallback:tokens(text) end

--- What model:submit gives, for the dialects (waits).
---@param o qhost.ChatOptions
function Fallback:submit(o) end

-- The rest -------------------------------------------------------------------------------------------

qh.url = {}

---@class qhost.Url
---@field scheme? string  in lower case
---@field user? string  decoded, as password is
---@field password? string
---@field host? string  in lower case; an IPv6 address without its brackets
---@field port? integer
---@field path string  as it stands, encoded; "" when there is none
---@field query? string  as it stands, without "?"
---@field fragment? string  as it stands, without "#"

--- Take a URL apart; a relative one has no scheme or no host. nil and a message when it is none.
---@param text string
---@return qhost.Url?
---@return string? message
function qh.url.parse(text) end

--- Put a URL together: qh.url.build { scheme = "http", host = "h", path = "/a", query = { q = "x y" } }.
---@param parts table  as parse gives them; query may be a table
---@return string
function qh.url.build(parts) end

--- Encode all but unreserved characters as %XX.
---@param s string
---@return string
function qh.url.encode(s) end

--- Decode %XX.
---@param s string
---@return string
function qh.url.decode(s) end

--- A table as "a=1&b=x%20y", names sorted; a list gives its name several times.
---@param t table<string, string|number|boolean|table>
---@return string
function qh.url.query(t) end

--- "a=1&b=x+y" as a table; of a repeated name the last.
---@param query string
---@return table<string, string>
function qh.url.decode_query(query) end

--- Regular expressions as Perl has them (PCRE2, UTF-8; offsets are bytes). Flags, any of: i ignore case, m ^ and $ at
--- lines, s "." is a newline too, x free spacing, a anchored where the search starts, u \w \d \s \b by Unicode,
--- e as ECMAScript reads them. One that backtracks too much, or takes more than 25 ms, is an error.
qh.re = {}

--- The first match: [0] all of it, [1] and on the groups, named ones by name too; a group that took no part is false.
---@param s string
---@param pattern string
---@param flags? string
---@param init? integer  where to start
---@return table<integer|string, string|false>?
function qh.re.match(s, pattern, flags, init) end

--- Where the first match is, as string.find has it.
---@param s string
---@param pattern string
---@param flags? string
---@param init? integer
---@return integer? from
---@return integer? to
function qh.re.find(s, pattern, flags, init) end

--- Whether there is a match.
---@param s string
---@param pattern string
---@param flags? string
---@return boolean
function qh.re.test(s, pattern, flags) end

--- All matches: for m in qh.re.gmatch(text, [[\w+]]) do
---@param s string
---@param pattern string
---@param flags? string
---@return fun(): table<integer|string, string|false>?
function qh.re.gmatch(s, pattern, flags) end

--- Replace all matches. A string may hold $0, $1, ${name} and $$; a function gets the match, a table is looked up by
--- the first group, or by the whole; what these give as nil or false stays as it was.
---@param s string
---@param pattern string
---@param repl string|table|fun(m: table): string|false|nil
---@param flags? string
---@param max? integer  replacements at most
---@return string
---@return integer n
function qh.re.gsub(s, pattern, repl, flags, max) end

--- The pieces between matches.
---@param s string
---@param pattern string
---@param flags? string
---@param max? integer  pieces at most
---@return string[]
function qh.re.split(s, pattern, flags, max) end

--- A pattern that matches this text and nothing else.
---@param text string
---@return string
function qh.re.escape(text) end

-- Data that survives -----------------------------------------------------------------------------------

---@class qhost.Store
---@field name string
local Store = {}

--- A store of that name: a SQLite file in the data folder (qhost serve --data). It survives reloads, restarts and
--- crashes. Values are kept as JSON. Each call waits its turn on the store's own thread; a failure is an error that
--- names the store, the SQL and the line. Besides the tables of its own (kv, stream) a store has those that you make.
---
---     local notes = qh.store "notes"
---     app:post("/notes", function(req, res) res:json { id = notes:append(req.user, req:json()) } end)
---@param name string  letters, digits, "_" and "-"
---@return qhost.Store
function qh.store(name) end

--- The value of a key, or nil (waits).
---@param key string
---@return any
function Store:get(key) end

--- Keep a value under a key, in place of an older one (waits). nil deletes.
---@param key string
---@param value any
function Store:set(key, value) end

--- Delete a key (waits). Whether it was there.
---@param key string
---@return boolean
function Store:del(key) end

--- Keys that begin with a prefix and their values, in order (waits).
---@param prefix? string
---@param opts? { after?: string, limit?: integer }  after that key; limit: default 1000
---@return { key: string, value: any }[]
function Store:list(prefix, opts) end

--- Put a value at the end of a stream (waits). Its number there, from 1.
---@param stream string
---@param value any
---@return integer id
function Store:append(stream, value) end

--- Values of a stream in order (waits); `at` is the time of the append. last: only that many from its end.
---@param stream string
---@param opts? { after?: integer, limit?: integer, last?: integer }
---@return { id: integer, at: number, value: any }[]
function Store:read(stream, opts) end

--- Run one statement of SQL (waits): rows as tables by column, where NULL is absent. Values go in by position for "?",
--- or by name for ":name". At most 10,000 rows and 16 MiB. A client that leaves ends it.
---
---     local rows = db:query("SELECT name FROM users WHERE age > ?", { 18 })
---@param sql string
---@param params? table
---@param opts? { timeout?: number }  seconds; default 10
---@return table<string, any>[] rows
---@return { changes: integer, last_id: integer } info
function Store:query(sql, params, opts) end

--- Run several statements as one transaction (waits): all of them happen, or none.
---@param list table[]  each { sql, params }
---@param opts? { timeout?: number }
---@return table[] rows  of each statement
---@return { changes: integer, last_id: integer }[] infos
function Store:batch(list, opts) end

qh.crypto = {}

---@alias qhost.Form "hex"|"base64"|"base64url"|"raw"

--- SHA-256 of a text.
---@param data string
---@param form? qhost.Form  default "hex"
---@return string
function qh.crypto.sha256(data, form) end

--- HMAC-SHA-256 of a text under a key.
---@param key string
---@param data string
---@param form? qhost.Form  default "hex"
---@return string
function qh.crypto.hmac_sha256(key, data, form) end

--- Bytes nobody can guess, at most 1 MiB.
---@param n integer
---@param form? qhost.Form  default "raw"
---@return string
function qh.crypto.random_bytes(n, form) end

--- Whether two texts are equal, without telling by the time where they differ: for keys and signatures.
---@param a string
---@param b string
---@return boolean
function qh.crypto.equal(a, b) end

--- A random UUID (version 4).
---@return string
function qh.crypto.uuid() end

--- A UUID that begins with the time (version 7): later ones sort after earlier ones.
---@return string
function qh.crypto.uuid7() end

--- Bytes as base64, padded; at most 8 MiB.
---@param data string
---@return string
function qh.crypto.base64.encode(data) end

--- Base64 as bytes, with or without padding. nil and a message when it is none.
---@param text string
---@return string?
---@return string? message
function qh.crypto.base64.decode(text) end

--- Bytes as base64 with "-" and "_", without padding.
---@param data string
---@return string
function qh.crypto.base64url.encode(data) end

--- That as bytes. nil and a message when it is none.
---@param text string
---@return string?
---@return string? message
function qh.crypto.base64url.decode(text) end

--- Bytes as hexadecimal digits, in lower case.
---@param data string
---@return string
function qh.crypto.hex.encode(data) end

--- Hexadecimal digits as bytes. nil and a message when they are none.
---@param text string
---@return string?
---@return string? message
function qh.crypto.hex.decode(text) end

-- Tests -------------------------------------------------------------------------------------------------

--- `qhost test app.lua` runs app_test.lua and app_*_test.lua beside it (without an app_test.lua, all *_test.lua), or
--- the files given. Each file gets the app loaded anew; nothing leaves the process: models repeat what the user said, fetches fail, unless the test says otherwise.
---
---     local test, qh = require "qhost.test", require "qhost"
---     test.test("the agent asks for the weather", function()
---       qh.mock.model("small", { { tool_calls = { { name = "weather", arguments = { city = "Oslo" } } } }, "It is cold." })
---       qh.mock.fetch("http://weather.example/*", { json = { temp = -3 } })
---       local reply = test.request { path = "/agent", json = { prompt = "Oslo?" } }
---       test.equal(reply.status, 200)
---       test.match(reply.body, "cold")
---     end)
qh.mock = {}

--- What a model answers: a text, { text =, tool_calls = { { name =, arguments = } } }, a list of these, one a call, or
--- fn(prompt, n).
---@param name string
---@param answers any
function qh.mock.model(name, answers) end

--- The prompts that a model was asked with in this test, as text.
---@param name string
---@return string[]
function qh.mock.prompts(name) end

--- What qh.fetch gets from such URLs; "*" is any text: a body, { status =, headers =, body =, json =, delay = },
--- { error = "why" }, or fn(request) that returns one of them.
---@param url string
---@param reply any
function qh.mock.fetch(url, reply) end

--- The fetches of this test: a list of { url, method, headers, body, json }.
---@return table[]
function qh.mock.fetched() end

--- What a tool does in place of its run: a result, or fn(args, ctx).
---@param name string
---@param result any
function qh.mock.tool(name, result) end

---@class qhost.MockClock
local Clock = {}

--- Time is virtual from now on: qh.time, qh.clock, qh.sleep, qh.timeout, qh.every. It stands still while something
--- happens, and jumps to the next who sleeps when nothing does; with auto = false only clock:advance moves it.
---@param opts? { at?: number, auto?: boolean }  at: seconds since 1970
---@return qhost.MockClock
function qh.mock.clock(opts) end

--- The time, in seconds since 1970.
---@return number
function Clock:now() end

--- Let so many seconds pass (waits); who sleeps until then wakes up, in order.
---@param seconds number
function Clock:advance(seconds) end

---@class qhost.test  require "qhost.test"
local test = {}

--- Add a test. One that takes longer than its timeout (5 s) has failed; `skip` says why it is left out.
---@param name string
---@param opts { timeout?: number, skip?: string }
---@param fn fun()
---@overload fun(name: string, fn: fun())
function test.test(name, opts, fn) end

--- Fail unless both are equal, tables by what is in them; the message lists the places that differ.
---@param got any
---@param want any
---@param what? string
function test.equal(got, want, what) end

--- Fail unless the value is true. Returns it.
---@param value any
---@param what? string
---@return any
function test.check(value, what) end

--- Fail unless the text matches the Lua pattern.
---@param text string
---@param pattern string
---@param what? string
function test.match(text, pattern, what) end

--- Fail unless fn raises an error whose text has `part` in it. Returns the error.
---@param fn fun()
---@param part? string
---@param what? string
---@return any
function test.error(fn, part, what) end

---@class qhost.TestReply
---@field status integer
---@field headers table<string, string>  names in lower case
---@field body string
---@field is_cut boolean  it was cut off after its first byte
---@field log string  what the app logged as errors meanwhile
local TestReply = {}

--- Ask the app, without a socket (waits).
---@param o { path: string, method?: string, json?: any, body?: string, headers?: table<string, string> }
---@return qhost.TestReply
function test.request(o) end

--- The body as JSON; fails when it is none.
---@return any
function TestReply:json() end

--- The events of an event stream: a list of { event, data }; data is JSON where it is some.
---@return table[]
function TestReply:events() end

qh.log = {}

--- Log an event: a name and fields, as one line.
---@param event string  a word, such as "order.placed"
---@param fields? table<string, any>
function qh.log.debug(event, fields) end

--- Log an event.
---@param event string
---@param fields? table<string, any>
function qh.log.info(event, fields) end

--- Log an event.
---@param event string
---@param fields? table<string, any>
function qh.log.warn(event, fields) end

--- Log an event.
---@param event string
---@param fields? table<string, any>
function qh.log.error(event, fields) end

--- A variable of the server's environment.
---@param name string
---@param default? string
---@return string?
function qh.env(name, default) end

--- Seconds since 1970, with a fraction; the same as qh.time.now().
---@return number
function qh.time() end

--- Seconds since 1970, with a fraction.
---@return number
function qh.time.now() end

--- A time as text in UTC: "2024-02-29T10:00:00Z"; digits of the second's fraction are cut, not rounded.
---@param t? number  default now
---@param digits? integer  0..6; default 0
---@return string
function qh.time.iso(t, digits) end

--- A time in UTC in the form that os.date knows: qh.time.format "%H:%M".
---@param form string
---@param t? number  default now
---@return string
function qh.time.format(form, t) end

--- The time of a text such as "2024-02-29T10:00:00.5+02:00" (RFC 3339) or "2024-02-29". nil and a message for
--- anything else.
---@param text string
---@return number? seconds
---@return string? message
function qh.time.parse(text) end

--- Seconds of a clock that never jumps: for durations.
---@return number
function qh.time.monotonic() end

--- The same as qh.time.monotonic().
---@return number
function qh.clock() end

--- Wait so many seconds (waits).
---@param seconds number
function qh.sleep(seconds) end

return qh
