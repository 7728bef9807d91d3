-- Ledger.reserve: reserve everything requested, or nothing.
local id, amount, optional, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Empty: no such limit.
local per_minute, tokens_per_minute = tonumber(ARGV[5]), tonumber(ARGV[6])
local concurrent, tokens_per_day = tonumber(ARGV[7]), tonumber(ARGV[8])
local lease_ms = tonumber(ARGV[9])
local now, unix_ms = moment(ARGV[10], ARGV[11])
local cost, token_cost = tonumber(ARGV[12]), tonumber(ARGV[13])
local day = math.floor(unix_ms / DAY_MS)
local next_day_ms = (day + 1) * DAY_MS - unix_ms + 1

-- Each budget is four arguments: unit, period, hard and soft limit. The tokens of a day are one of them.
local budgets = {}
for number = 14, #ARGV, 4 do
  local first, stop = period_days(ARGV[number + 1], day)
  table.insert(budgets, {
    of_tokens = ARGV[number] == 'tokens',
    first = first,
    stop = stop,
    hard = tonumber(ARGV[number + 2]),
    soft = tonumber(ARGV[number + 3]),
  })
end

-- Abandon reservations that were not renewed. Nothing is written unless there are some: a full Redis refuses
-- only a script's first write.
repeat
  local expired = redis.call('ZRANGEBYSCORE', OPEN, '-inf', whole(now), 'LIMIT', 0, 1000)
  if #expired > 0 then
    redis.call('ZREM', OPEN, unpack(expired))
    redis.call('HDEL', RESERVATIONS, unpack(expired))
    redis.call('ZREMRANGEBYSCORE', RUNNING, '-inf', whole(now))
  end
until #expired < 1000

local function used_today()
  return tonumber(redis.call('HGET', DAYS, whole(day))) or 0
end

-- The part of the budget that is used, including reserved amounts.
local function used(budget)
  local days = {}
  for each = budget.first, budget.stop - 1 do
    table.insert(days, (budget.of_tokens and '' or 'cost:') .. whole(each))
  end
  local total = 0
  for _, of_day in ipairs(redis.call('HMGET', budget.of_tokens and DAYS or BOOKS, unpack(days))) do
    total = total + (tonumber(of_day) or 0)
  end
  return total
end

-- The part of the budget's use that open reservations hold, and may give back.
local function reserved(budget)
  local total = 0
  for _, reservation in ipairs(redis.call('HVALS', RESERVATIONS)) do
    local held, counted_day, _, _, _, held_cost = unpacked(reservation)
    counted_day = tonumber(counted_day)
    if counted_day and budget.first <= counted_day and counted_day < budget.stop then
      total = total + (budget.of_tokens and held or held_cost)
    end
  end
  return total
end

local left_out = 0
local soft = {}
for index, budget in ipairs(budgets) do
  budget.used = used(budget)
  if budget.hard then
    if budget.of_tokens then
      left_out = math.max(left_out, amount - (budget.hard - budget.used))
    elseif token_cost > 0 then
      left_out = math.max(left_out, -math.floor((budget.hard - budget.used - cost) / token_cost))
    end
  end
  if budget.soft and budget.used >= budget.soft and budget.used - reserved(budget) >= budget.soft then
    table.insert(soft, index - 1)
  end
end
left_out = math.min(left_out, optional)
amount = amount - left_out
cost = cost - left_out * token_cost
local requests, tokens = read_buckets(now)
local refused, wait = '', 0
if per_minute then
  drain(requests, now)
  requests.limit = per_minute
  local request_wait = wait_ms(requests, count)
  if request_wait > wait then
    refused, wait = 'requests', request_wait
  end
end
if tokens_per_minute then
  drain(tokens, now)
  tokens.limit = tokens_per_minute
  local token_wait = wait_ms(tokens, amount)
  if token_wait > wait then
    refused, wait = 'tokens', token_wait
  end
end
if wait < RUNNING_WAIT_MS and concurrent and redis.call('ZCARD', RUNNING) + count > concurrent then
  refused, wait = 'concurrency', RUNNING_WAIT_MS
end
local refusing = false
for index, budget in ipairs(budgets) do
  local wanted = budget.of_tokens and amount or cost
  if budget.hard and budget.used + wanted > budget.hard then
    if budget.used - reserved(budget) + wanted > budget.hard then
      local until_end = budget.stop * DAY_MS - unix_ms + 1
      if refused ~= 'budget' or until_end > wait then
        refused, wait, refusing = 'budget', until_end, index - 1
      end
    elseif wait < RUNNING_WAIT_MS then
      refused, wait, refusing = 'budget_reserved', RUNNING_WAIT_MS, index - 1
    end
  end
end

if refused == '' then
  local request_mark, token_mark, counted_day = '-', '-', '-'
  if #budgets > 0 then
    counted_day = whole(day)
    if redis.call('HEXISTS', DAYS, counted_day) == 0 then
      -- A new day: keep those that a budget may count, on both sides because the clock may be set.
      for _, other in ipairs(redis.call('HKEYS', DAYS)) do
        if math.abs(tonumber(other) - day) > DAYS_KEPT then
          redis.call('HDEL', DAYS, other)
          redis.call('HDEL', BOOKS, 'cost:' .. other, 'held:' .. other, 'held_cost:' .. other)
        end
      end
    end
    add_to_day(day, amount, cost, amount, cost)
  end
  if per_minute then
    request_mark = whole(debit(requests, count))
  end
  if tokens_per_minute then
    token_mark = whole(debit(tokens, amount))
  end
  redis.call('ZADD', OPEN, whole(now + lease_ms), id)
  redis.call('HSET', RESERVATIONS, id, packed(amount, counted_day, request_mark, token_mark, count, cost))
  if concurrent then
    for number = 1, count do
      redis.call('ZADD', RUNNING, whole(now + lease_ms), member(id, number))
    end
  end
  keep_reservations(lease_ms)
end
if per_minute or tokens_per_minute then
  write_buckets(requests, tokens, lease_ms)
end

local answer = {refused, wait, 0, 0, 0, 0, false, false, refusing, soft}
if per_minute then
  answer[3], answer[4] = left(requests), reset_ms(requests)
end
if tokens_per_minute then
  answer[5], answer[6] = left(tokens), reset_ms(tokens)
end
if tokens_per_day then
  answer[7], answer[8] = math.max(0, tokens_per_day - used_today()), next_day_ms
end
return answer
