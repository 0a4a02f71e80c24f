create table engines (name text primary key, since int not null);
insert into engines values ('docker', 2013), ('podman', 2018), ('lamina', 2026);
