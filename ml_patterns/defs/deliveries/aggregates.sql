-- One hour of parcels, summed up per region.
--
-- Sees `events`: the parcels picked up in this hour, each in its newest version.
-- Only counts and whole-number sums: adding them up again gives the same bits in any order, and
-- shares and averages are taken from them where they are needed (features.sql).
-- `delivered` and `delivered_late` come from the label, so they are listed in
-- `aggregates.label_columns`: features see them only when the label is sure to be known.

SELECT
    region,
    count(*) AS parcels,
    count(*) FILTER (WHERE service = 'express') AS express_parcels,
    CAST(sum(price_cents) AS BIGINT) AS revenue_cents,
    CAST(sum(weight_g) AS BIGINT) AS weight_g,
    CAST(sum(distance_km) AS BIGINT) AS distance_km,
    CAST(sum(hub_backlog) AS BIGINT) AS backlog_seen,  -- summed over the parcels that saw it
    max(hub_backlog) AS backlog_peak,
    count(delivered_late) AS delivered,
    count(*) FILTER (WHERE delivered_late) AS delivered_late
FROM events
GROUP BY region
